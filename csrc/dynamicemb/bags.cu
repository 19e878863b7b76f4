// File: bags.cu
//
// What pooling adds to a lookup: the bag of each occurrence and the gradients of the weights.
#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/row.cuh"

namespace accel::dynamicemb {

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
