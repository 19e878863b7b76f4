// File: reduce.cuh
//
// Gradients summed per key, and the update of the key's row, in one pass over the occurrences as
// they are sorted by key. A warp takes kChunk of them in a row. A key of no more occurrences is
// finished by the warp of the chunk that it begins in; of the others each chunk writes down what it
// has, and a second kernel sums the parts. The order of all sums is fixed: two runs give the same
// bits.
#pragma once

#include "csrc/common/scratch.h"
#include "csrc/dynamicemb/optimizer.cuh"

namespace accel::dynamicemb {

constexpr int kChunk = 32;

// Loads the gradient of one occurrence.
template <class Type>
struct GradSource {
  using Real = typename Type::Real;
  Bags bags;
  const void* grads;
  const int32_t* bag_of;
  bool whole;

  struct Place {
    int64_t at;
    Real scale;
  };

  ACCEL_HD Place PlaceOf(int64_t i) const {
    if (bags.pooling == Pooling::kNone) return {i * bags.out_stride, Real(1)};
    const int32_t bag = bag_of[i];
    const auto feature = static_cast<uint32_t>(bag) / static_cast<uint32_t>(bags.batch);
    const int64_t sample = bag - feature * bags.batch;
    Real scale = bags.weights ? static_cast<const Real*>(bags.weights)[i] : Real(1);
    if (bags.pooling == Pooling::kMean) {
      scale *= Real(1) / Real(bags.offsets[bag + 1] - bags.offsets[bag]);
    }
    return {sample * bags.out_stride + bags.dim_offsets[feature], scale};
  }

  // A group of four of the place's gradient.
  ACCEL_HD void Load(const Place& place, int64_t g, int64_t dim, Real* x) const {
    LoadAny(bags.out_dtype, grads, place.at + g * 4, dim - g * 4, whole, x);
  }
  ACCEL_HD static void Add(Real scale, Real clip, Real* x, Real* sum) {
    for (int j = 0; j < 4; ++j) {
      if (clip > 0) x[j] = Max(-clip, Min(clip, x[j]));
      sum[j] += scale * x[j];
    }
  }
};

// What becomes of the sum of a row: written, or an update of the row.
template <class Type>
struct Finish {
  using Real = typename Type::Real;
  RowSource source;
  RowUpdate<Type> update;
  Real* sums;
  int64_t sum_stride;

  template <class Grad>
  ACCEL_HD void operator()(const Numbers<Real>& numbers, int64_t u, const RowInfo& info,
                           const Grad& grad) const {
    if (sums == nullptr) {
      const int64_t address = source.rows[u];
      if (address == 0) return;
      return update(numbers, info, reinterpret_cast<char*>(address), source.keys + u, grad);
    }
    for (int64_t g = Team::lane(); g * 4 < sum_stride; g += Team::kLanes) {
      Real x[4] = {0, 0, 0, 0};
      if (g * 4 < info.dim) grad(g, x);
      for (int j = 0; j < 4; ++j) x[j] = g * 4 + j < info.dim ? x[j] : Real(0);
      StoreSome(std::conditional_t<std::is_same<Real, double>::value, Double, Float>{}, sums,
                u * sum_stride + g * 4, sum_stride - g * 4, sum_stride % 4 == 0, x);
    }
  }
};

template <class Type>
struct ReduceParams {
  using Real = typename Type::Real;
  GradSource<Type> source;
  Finish<Type> finish;
  int64_t n;
  const int32_t *ids, *order;
  const Hyper* hyper;
  Real* partial;  // (chunks, 2, partial_stride): of the key that runs in, of the one that runs out
  int64_t partial_stride;
  int32_t *span_count, *spans;  // the chunks in which a key begins that is summed by parts

  ACCEL_HD const RowInfo& InfoOf(int64_t u) const {
    const RowSource& of = finish.source;
    return of.infos[SegmentOf(of.row_offsets, of.tables, u)];
  }
};

// The groups of a lane, held in registers.
template <class Real, int kGroups>
struct Held {
  Real value[kGroups][4];
  ACCEL_HD void operator()(int64_t g, Real* x) const {
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      if (g == k * Team::kLanes + Team::lane()) {
        for (int j = 0; j < 4; ++j) x[j] = value[k][j];
      }
    }
  }
  ACCEL_HD void Clear() {
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      for (int j = 0; j < 4; ++j) value[k][j] = 0;
    }
  }
};

// Of the GPU.
struct ReduceScratchParts {
  size_t span_count_at, bytes;

  ReduceScratchParts(const ReduceArgs& a, int64_t max_dim) {
    const int64_t chunks = CeilDiv<int64_t>(a.bags.n, kChunk);
    const int64_t real = a.source.dtype == DType::kDouble ? 8 : 4;
    ScratchLayout layout;
    layout.Add(static_cast<size_t>(chunks * 2 * CeilDiv<int64_t>(max_dim, 4) * 4 * real));
    span_count_at = layout.Add(static_cast<size_t>(4 * (chunks + 1)));
    bytes = layout.bytes();
  }
};

template <class Type>
ReduceParams<Type> ParamsOf(const ReduceArgs& a, int64_t max_dim) {
  using Real = typename Type::Real;
  ReduceParams<Type> p;
  const bool whole = a.bags.whole && WholeGroups(a.grads, a.bags.out_stride, a.bags.out_dtype);
  p.source = {a.bags, a.grads, a.bag_of, whole};
  p.finish = {a.source,
              {a.optimizer, a.decay, a.stochastic, a.state},
              static_cast<Real*>(a.sums),
              a.sum_stride};
  p.n = a.bags.n;
  p.ids = a.ids;
  p.order = a.order;
  p.hyper = a.hyper;
  const ReduceScratchParts parts(a, max_dim);
  auto* const scratch = static_cast<char*>(a.scratch);
  p.partial = reinterpret_cast<Real*>(scratch);
  p.partial_stride = CeilDiv<int64_t>(max_dim, 4) * 4;
  p.span_count = reinterpret_cast<int32_t*>(scratch + parts.span_count_at);
  p.spans = p.span_count + 1;
  return p;
}

// Updates rows by sums that lie in memory.
template <class Type>
struct UpdateBody {
  using Real = typename Type::Real;
  RowSource source;
  RowUpdate<Type> update;
  const Real* sums;
  int64_t stride;
  ACCEL_HD void operator()(const Numbers<Real>& numbers, int64_t u) const {
    if (u >= source.row_offsets[source.tables] || source.rows[u] == 0) return;
    const RowInfo& info = source.infos[SegmentOf(source.row_offsets, source.tables, u)];
    update(numbers, info, reinterpret_cast<char*>(source.rows[u]), source.keys + u,
           SumOf{sums + u * stride, stride});
  }
  struct SumOf {
    const Real* value;
    int64_t stride;
    ACCEL_HD void operator()(int64_t g, Real* x) const {
      for (int j = 0; j < 4; ++j) x[j] = g * 4 + j < stride ? value[g * 4 + j] : Real(0);
    }
  };
};

// One instance for each type of weights (instances.bzl).
template <class Type>
int ReduceOf(const Where& where, const ReduceArgs& args, int64_t max_dim);
template <class Type>
int UpdateOf(const Where& where, const ReduceArgs& args);

constexpr int64_t kMostDim = 1024;

}  // namespace accel::dynamicemb
