// File: lookup_backward.cu
//
// The backward's dispatch by type of weights, and the first bytes of new rows.
#include "csrc/dynamicemb/reduce.cuh"

namespace accel::dynamicemb {

size_t ReduceScratch(const Where& where, const ReduceArgs& args, int64_t max_dim) {
  if (!where.cuda) return 0;
  const int64_t chunks = CeilDiv<int64_t>(args.bags.n, kChunk);
  const int64_t real = args.source.dtype == DType::kDouble ? 8 : 4;
  return static_cast<size_t>(chunks * 2 * CeilDiv<int64_t>(max_dim, 4) * 4 * real);
}

int Reduce(const Where& where, const ReduceArgs& args, int64_t max_dim) {
  if (args.bags.n == 0) return cudaSuccess;
  if (where.cuda && max_dim > kMostDim) return cudaErrorNotSupported;
  int code = cudaSuccess;
  WithType(args.source.dtype,
           [&](auto type) { code = ReduceOf<decltype(type)>(where, args, max_dim); });
  return code;
}

int Update(const Where& where, const ReduceArgs& args) {
  int code = cudaSuccess;
  WithType(args.source.dtype, [&](auto type) { code = UpdateOf<decltype(type)>(where, args); });
  return code;
}

ACCEL_HD void Count(int64_t* counter) {
#if defined(__CUDA_ARCH__)
  atomicAdd(reinterpret_cast<unsigned long long*>(counter), 1ull);
#else
  __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
#endif
}

template <class Type>
struct InitRowsBody {
  InitRowsArgs a;
  ACCEL_HD void operator()(int64_t u) const {
    using Real = typename Type::Real;
    using State = std::conditional_t<std::is_same<Real, double>::value, Double, Float>;
    if (u >= a.row_offsets[a.tables]) return;
    const int status = a.status != nullptr ? a.status[u] : 2;
    if (a.counts != nullptr && status != 1 && Team::lane() == 0) Count(a.counts + status);
    if (a.rows[u] == 0) return;
    const RowInfo& info = a.infos[SegmentOf(a.row_offsets, a.tables, u)];
    char* const row = reinterpret_cast<char*>(a.rows[u]);
    if (info.stamp_offset >= 0 && Team::lane() == 0) {
      *reinterpret_cast<uint64_t*>(row + info.stamp_offset) = a.stamp;
    }
    if (status != 2 && status != 3) return;
    for (int64_t g = Team::lane(); g * 4 < info.dim; g += Team::kLanes) {
      float first[4];
      InitialValues(info, a.keys[u], g, first);
      Real w[4];
      for (int j = 0; j < 4; ++j) w[j] = g * 4 + j < info.dim ? Real(first[j]) : Real(0);
      StoreRow(Type{}, row, g, w);
    }
    for (int64_t s = 0; s < info.states; ++s) {
      const auto value = static_cast<Real>(info.initial_state[s]);
      const Real w[4] = {value, value, value, value};
      for (int64_t g = Team::lane(); g * 4 < info.state_len; g += Team::kLanes) {
        StoreRow(State{}, row + info.state_offset, s * (info.state_len / 4) + g, w);
      }
    }
    if (info.step_offset >= 0 && Team::lane() == 0) {
      *reinterpret_cast<uint32_t*>(row + info.step_offset) = 0;
    }
  }
};

int InitRows(const Where& where, const InitRowsArgs& args) {
  int code = cudaSuccess;
  WithType(args.dtype,
           [&](auto type) { code = EachTeam(where, args.n, InitRowsBody<decltype(type)>{args}); });
  return code;
}

}  // namespace accel::dynamicemb
