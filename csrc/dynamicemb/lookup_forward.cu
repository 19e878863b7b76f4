// File: lookup_forward.cu
//
// Rows gathered into the output: one each, or the sum or mean of those of a bag, weighted or not.
#include "csrc/dynamicemb/gather.cuh"

namespace accel::dynamicemb {

// An output row of a sequence, or a bag.
template <class Type>
struct GatherBody {
  using Real = typename Type::Real;
  Bags bags;
  RowSource source;
  void* out;
  bool whole;

  ACCEL_HD int64_t RowOf(int64_t i) const { return source.inverse ? source.inverse[i] : i; }

  ACCEL_HD void operator()(int64_t i) const {
    if (bags.pooling == Pooling::kNone) {
      Sequence(i);
    } else {
      Bag(i);
    }
  }

  ACCEL_HD void Sequence(int64_t i) const {
    const int64_t u = RowOf(i);
    const RowInfo& info = source.infos[SegmentOf(source.row_offsets, source.tables, u)];
    const int64_t groups = (bags.out_stride + 3) / 4;
    for (int64_t g = Team::lane(); g < groups; g += Team::kLanes) {
      Real x[4] = {0, 0, 0, 0};
      if (g * 4 < info.dim) RowValues(Type{}, source, info, u, g, x);
      for (int j = 0; j < 4; ++j) x[j] = g * 4 + j < info.dim ? x[j] : Real(0);
      StoreAny(bags.out_dtype, out, i * bags.out_stride + g * 4, bags.out_stride - g * 4, whole, x);
    }
  }

  ACCEL_HD void Bag(int64_t bag) const {
    const int64_t feature = bag / bags.batch, sample = bag % bags.batch;
    const RowInfo& info = source.infos[bags.feature_table[feature]];
    const int64_t begin = bags.offsets[bag], end = bags.offsets[bag + 1];
    const Real scale =
        bags.pooling == Pooling::kMean && end > begin ? Real(1) / Real(end - begin) : Real(1);
    const int64_t at = sample * bags.out_stride + bags.dim_offsets[feature];
    const int64_t dim = bags.dim_offsets[feature + 1] - bags.dim_offsets[feature];
    for (int64_t g = Team::lane(); g * 4 < dim; g += Team::kLanes) {
      Real sum[4] = {0, 0, 0, 0};
#pragma unroll 4
      for (int64_t i = begin; i < end; ++i) {
        Real x[4];
        RowValues(Type{}, source, info, RowOf(i), g, x);
        const Real w = bags.weights ? static_cast<const Real*>(bags.weights)[i] : Real(1);
        for (int j = 0; j < 4; ++j) sum[j] += w * x[j];
      }
      for (int j = 0; j < 4; ++j) sum[j] *= scale;
      StoreAny(bags.out_dtype, out, at + g * 4, dim - g * 4, whole, sum);
    }
  }
};

// What the kernels of gather.cuh cannot do, a warp for each row or bag does.
template <class Type>
int Gather(const Where& where, int64_t n, const GatherBody<Type>& body) {
  constexpr int64_t kMostBagsOfCall = (int64_t{1} << 31) - 1;
  if (where.cuda && body.whole && n <= kMostBagsOfCall) {
    if (body.bags.out_dtype == body.source.dtype) {
      return LaunchGather<Type, Type>(where, n, body);
    }
    if (body.bags.out_dtype == DType::kFloat) return LaunchGather<Type, Float>(where, n, body);
  }
  return EachTeam(where, n, body);
}

int LookupForward(const Where& where, const Bags& bags, const RowSource& source, void* out) {
  const int64_t n = bags.pooling == Pooling::kNone ? bags.n : bags.features * bags.batch;
  // Features begin at multiples of the stride's common divisor only if the caller says so.
  const bool whole = bags.whole && WholeGroups(out, bags.out_stride, bags.out_dtype);
  int code = cudaSuccess;
  WithType(source.dtype, [&](auto type) {
    code = Gather(where, n, GatherBody<decltype(type)>{bags, source, out, whole});
  });
  return code;
}

template <class Type>
struct WeightGradBody {
  using Real = typename Type::Real;
  Bags bags;
  RowSource source;
  const void* grads;
  const int32_t* bag_of;
  void* weight_grads;
  bool whole;

  ACCEL_HD void operator()(int64_t i) const {
    const int64_t bag = bag_of[i];
    const int64_t feature = bag / bags.batch, sample = bag % bags.batch;
    const RowInfo& info = source.infos[bags.feature_table[feature]];
    const int64_t at = sample * bags.out_stride + bags.dim_offsets[feature];
    const int64_t u = source.inverse ? source.inverse[i] : i;
    Real sum = 0;
    for (int64_t g = Team::lane(); g * 4 < info.dim; g += Team::kLanes) {
      Real x[4], d[4];
      RowValues(Type{}, source, info, u, g, x);
      LoadAny(bags.out_dtype, grads, at + g * 4, info.dim - g * 4, whole, d);
      for (int j = 0; j < 4; ++j) sum += g * 4 + j < info.dim ? x[j] * d[j] : Real(0);
    }
    sum = Team::Sum(sum);
    if (bags.pooling == Pooling::kMean) sum /= Real(bags.offsets[bag + 1] - bags.offsets[bag]);
    if (Team::lane() == 0) static_cast<Real*>(weight_grads)[i] = sum;
  }
};

int WeightGrads(const Where& where, const Bags& bags, const RowSource& source, const void* grads,
                const int32_t* bag_of, void* weight_grads) {
  const bool whole = bags.whole && WholeGroups(grads, bags.out_stride, bags.out_dtype);
  int code = cudaSuccess;
  WithType(source.dtype, [&](auto type) {
    code =
        EachTeam(where, bags.n,
                 WeightGradBody<decltype(type)>{bags, source, grads, bag_of, weight_grads, whole});
  });
  return code;
}

struct ExpandBagsBody {
  const int64_t* offsets;
  int32_t* bag_of;
  ACCEL_HD void operator()(int64_t bag) const {
    for (int64_t i = offsets[bag]; i < offsets[bag + 1]; ++i) {
      bag_of[i] = static_cast<int32_t>(bag);
    }
  }
};

// A warp writes the occurrences of 32 bags one after the other, whatever the bags' lengths.
__global__ void __launch_bounds__(kBlock)
    ExpandBagsKernel(int64_t bags, const int64_t* offsets, int32_t* bag_of) {
  const int lane = threadIdx.x % 32;
  const int64_t base = (blockIdx.x * int64_t{kWarps} + threadIdx.x / 32) * 32;
  if (base >= bags) return;
  const int64_t end_of_mine = offsets[Min(base + lane + 1, bags)];
  const int64_t begin = offsets[base], end = __shfl_sync(kFullMask, end_of_mine, 31);
  for (int64_t from = begin; from < end; from += 32) {
    const int64_t i = from + lane;
    int owner = 0;  // how many of the bags end before i
    for (int step = 16; step > 0; step /= 2) {
      if (__shfl_sync(kFullMask, end_of_mine, owner + step - 1) <= i) owner += step;
    }
    if (i < end) bag_of[i] = static_cast<int32_t>(base + owner);
  }
}

int ExpandBags(const Where& where, const Bags& bags, int32_t* bag_of) {
  const int64_t n = bags.features * bags.batch;
  if (!where.cuda || n == 0) return Each(where, n, ExpandBagsBody{bags.offsets, bag_of});
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(n, 32 * kWarps));
  ExpandBagsKernel<<<blocks, kBlock, 0, static_cast<cudaStream_t>(where.stream)>>>(n, bags.offsets,
                                                                                   bag_of);
  return cudaGetLastError();
}

}  // namespace accel::dynamicemb
