// File: lookup.cuh
//
// Rows gathered into the output: one each, or the sum or mean of those of a bag, weighted or not.
#pragma once

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

// Of one type of rows, as LookupForward: lookup_inst.cu.tpl.
template <class Type>
int LookupOf(const Where& where, const Bags& bags, const RowSource& source, void* out);

}  // namespace accel::dynamicemb
