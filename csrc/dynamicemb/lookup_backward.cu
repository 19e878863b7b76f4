// File: lookup_backward.cu
//
// The backward's dispatch by type of weights, and the first bytes of new rows.
#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/reduce.cuh"

namespace accel::dynamicemb {

size_t ReduceScratch(const Where& where, const ReduceArgs& args, int64_t max_dim) {
  return where.cuda ? ReduceScratchParts(args, max_dim).bytes : 0;
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

template <class Type>
struct InitRowsBody {
  InitRowsArgs a;

  ACCEL_HD const RowInfo& InfoOf(int64_t u) const {
    return a.infos[SegmentOf(a.row_offsets, a.tables, u)];
  }
  ACCEL_HD int StatusOf(int64_t u) const { return a.status != nullptr ? a.status[u] : 2; }
  ACCEL_HD static bool IsNew(int status) { return status == 2 || status == 3; }

  ACCEL_HD void Stamp(int64_t u) const {
    const RowInfo& info = InfoOf(u);
    if (info.stamp_offset < 0) return;
    *reinterpret_cast<uint64_t*>(a.rows[u] + info.stamp_offset) = a.stamp;
  }

  // Writes a new row, but for its stamp.
  ACCEL_HD void Write(int64_t u) const {
    using Real = typename Type::Real;
    using State = std::conditional_t<std::is_same<Real, double>::value, Double, Float>;
    const RowInfo& info = InfoOf(u);
    char* const row = reinterpret_cast<char*>(a.rows[u]);
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

  // On the host.
  void operator()(int64_t u) const {
    if (u >= a.row_offsets[a.tables]) return;
    const int status = StatusOf(u);
    if (a.counts != nullptr && status != 1)
      __atomic_fetch_add(a.counts + status, 1, __ATOMIC_RELAXED);
    if (a.rows[u] == 0) return;
    Stamp(u);
    if (IsNew(status)) Write(u);
  }
};

// A warp looks at 32 keys at once, and writes the new ones among them one after the other.
template <class Type>
__global__ void __launch_bounds__(kBlock) InitRowsKernel(InitRowsBody<Type> body) {
  const InitRowsArgs& a = body.a;
  const int64_t u = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  const int lane = threadIdx.x % 32;
  const int64_t n = Min(a.n, a.row_offsets[a.tables]);
  if (u - lane >= n) return;
  const int status = u < n ? body.StatusOf(u) : 1;
  const int64_t row = u < n ? a.rows[u] : 0;
  if (row != 0) body.Stamp(u);
  if (a.counts != nullptr && __any_sync(kFullMask, status != 1)) {
    const unsigned same = __match_any_sync(kFullMask, status);
    if (status != 1 && lane == __ffs(same) - 1) {
      atomicAdd(reinterpret_cast<unsigned long long*>(a.counts + status),
                static_cast<unsigned long long>(__popc(same)));
    }
  }
  for (unsigned left = __ballot_sync(kFullMask, row != 0 && body.IsNew(status)); left != 0;
       left &= left - 1) {
    body.Write(u - lane + __ffs(left) - 1);
  }
}

int InitRows(const Where& where, const InitRowsArgs& args) {
  if (args.n == 0) return cudaSuccess;
  int code = cudaSuccess;
  WithType(args.dtype, [&](auto type) {
    const InitRowsBody<decltype(type)> body = {args};
    if (!where.cuda) return HostEach(where.threads, args.n, 1 << 10, body);
    InitRowsKernel<<<static_cast<unsigned>(CeilDiv<int64_t>(args.n, kBlock)), kBlock, 0,
                     static_cast<cudaStream_t>(where.stream)>>>(body);
    code = cudaGetLastError();
  });
  return code;
}

}  // namespace accel::dynamicemb
