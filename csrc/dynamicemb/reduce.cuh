// File: reduce.cuh
//
// Gradients summed per key, and the update of the key's row, in one pass over the occurrences as
// they are sorted by key. A warp takes kChunk of them in a row. A key whose occurrences all lie in
// the chunk is finished there; what a chunk has of the others is written down, and the warp of the
// chunk that such a key begins in sums the parts. The order of all sums is fixed: two runs give the
// same bits.
#pragma once

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
  const Hyper* hyper;
  bool whole;

  struct Place {
    int64_t at;
    Real scale;
  };

  ACCEL_HD Place PlaceOf(int64_t i) const {
    if (bags.pooling == Pooling::kNone) return {i * bags.out_stride, Real(1)};
    const int64_t bag = bag_of[i];
    const int64_t feature = bag / bags.batch, sample = bag % bags.batch;
    Real scale = bags.weights ? static_cast<const Real*>(bags.weights)[i] : Real(1);
    if (bags.pooling == Pooling::kMean) {
      scale *= Real(1) / Real(bags.offsets[bag + 1] - bags.offsets[bag]);
    }
    return {sample * bags.out_stride + bags.dim_offsets[feature], scale};
  }

  // Adds a group of four of the place's gradient to `sum`.
  ACCEL_HD void AddTo(const Place& place, int64_t g, int64_t dim, Real clip, Real* sum) const {
    if (g * 4 >= dim) return;
    Real x[4];
    LoadAny(bags.out_dtype, grads, place.at + g * 4, dim - g * 4, whole, x);
    for (int j = 0; j < 4; ++j) {
      if (clip > 0) x[j] = Max(-clip, Min(clip, x[j]));
      sum[j] += place.scale * x[j];
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
  ACCEL_HD void operator()(int64_t u, const RowInfo& info, const Grad& grad) const {
    if (sums == nullptr) {
      const int64_t address = source.rows[u];
      if (address != 0) update(info, reinterpret_cast<char*>(address), source.keys[u], grad);
      return;
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
  const RowInfo* infos;
  const int64_t* row_offsets;
  int64_t tables;
  Real* partial;  // (chunks, 2, partial_stride): of the key that runs in, of the one that runs out
  int64_t partial_stride;

  ACCEL_HD const RowInfo& InfoOf(int64_t u) const {
    return infos[SegmentOf(row_offsets, tables, u)];
  }
  ACCEL_HD Real Clip() const { return Real(source.hyper->clip); }
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

#if defined(__CUDACC__)

template <class Type, int kGroups>
__global__ void __launch_bounds__(kBlock) ReduceKernel(ReduceParams<Type> p) {
  using Real = typename Type::Real;
  const int64_t chunk = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t begin = chunk * kChunk, end = Min<int64_t>(begin + kChunk, p.n);
  if (begin >= p.n) return;
  const int lane = Team::lane();
  const Real clip = p.Clip();
  Held<Real, kGroups> sum;
  sum.Clear();
  // A lane knows one occurrence each; the others ask it.
  const int my_id = begin + lane < end ? p.ids[begin + lane] : -1;
  const int my_occurrence = begin + lane < end ? p.order[begin + lane] : 0;
  const auto my_place = p.source.PlaceOf(my_occurrence);
  const int before = begin > 0 ? p.ids[begin - 1] : -1;
  const int after = end < p.n ? p.ids[end] : -1;
  for (int at = 0; at < end - begin;) {
    const int id = __shfl_sync(0xffffffff, my_id, at);
    const int same = __popc(__ballot_sync(0xffffffff, my_id == id));
    const RowInfo& info = p.InfoOf(id);
    sum.Clear();
#pragma unroll 4
    for (int s = at; s < at + same; ++s) {
      const typename GradSource<Type>::Place place = {__shfl_sync(0xffffffff, my_place.at, s),
                                                      __shfl_sync(0xffffffff, my_place.scale, s)};
#pragma unroll
      for (int k = 0; k < kGroups; ++k) {
        p.source.AddTo(place, k * 32 + lane, info.dim, clip, sum.value[k]);
      }
    }
    const bool runs_in = at == 0 && id == before;
    const bool runs_out = at + same == end - begin && id == after;
    if (runs_in || runs_out) {
      Real* const to = p.partial + (chunk * 2 + (runs_in ? 0 : 1)) * p.partial_stride;
#pragma unroll
      for (int k = 0; k < kGroups; ++k) {
        const int64_t g = k * 32 + lane;
        if (g * 4 < info.dim)
          *reinterpret_cast<Group<Real>*>(to + g * 4) =
              *reinterpret_cast<const Group<Real>*>(sum.value[k]);
      }
    } else {
      p.finish(id, info, sum);
    }
    at += same;
  }
}

// The keys of more than one chunk, each by the warp of the chunk that it begins in.
template <class Type, int kGroups>
__global__ void __launch_bounds__(kBlock) CombineKernel(ReduceParams<Type> p) {
  using Real = typename Type::Real;
  const int64_t chunk = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t begin = chunk * kChunk, end = begin + kChunk;
  if (end >= p.n) return;
  const int id = p.ids[end - 1];
  if (p.ids[end] != id || (begin > 0 && p.ids[begin - 1] == id)) return;
  // The first chunk that the key does not reach.
  int64_t low = chunk + 1, high = CeilDiv<int64_t>(p.n, kChunk);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (p.ids[middle * kChunk] == id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int lane = Team::lane();
  const RowInfo& info = p.InfoOf(id);
  Held<Real, kGroups> sum;
  sum.Clear();
  const Real* from = p.partial + (chunk * 2 + 1) * p.partial_stride;
#pragma unroll 4
  for (int64_t c = chunk; c < low; ++c) {
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      const int64_t g = k * 32 + lane;
      if (g * 4 >= info.dim) continue;
      const auto part = *reinterpret_cast<const Group<Real>*>(from + g * 4);
      for (int j = 0; j < 4; ++j) sum.value[k][j] += part.value[j];
    }
    from = p.partial + (c + 1) * 2 * p.partial_stride;
  }
  p.finish(id, info, sum);
}

#endif  // __CUDACC__

// On the host a key after the other.
template <class Real>
struct HeldRow {
  const Real* value;
  ACCEL_HD void operator()(int64_t g, Real* x) const {
    for (int j = 0; j < 4; ++j) x[j] = value[g * 4 + j];
  }
};

template <class Type>
void HostReduce(const Where& where, const ReduceParams<Type>& p, int64_t max_dim) {
  using Real = typename Type::Real;
  Share(where.threads, p.n, 1 << 10, [&](int64_t first, int64_t last) {
    std::vector<Real> sum(static_cast<size_t>(CeilDiv<int64_t>(max_dim, 4) * 4));
    const Real clip = p.Clip();
    while (first > 0 && first < last && p.ids[first] == p.ids[first - 1]) ++first;
    for (int64_t at = first; at < last;) {
      const int64_t id = p.ids[at];
      const RowInfo& info = p.InfoOf(id);
      std::fill(sum.begin(), sum.end(), Real(0));
      for (; at < p.n && p.ids[at] == id; ++at) {
        const auto place = p.source.PlaceOf(p.order[at]);
        for (int64_t g = 0; g * 4 < info.dim; ++g) {
          p.source.AddTo(place, g, info.dim, clip, &sum[static_cast<size_t>(g * 4)]);
        }
      }
      p.finish(id, info, HeldRow<Real>{sum.data()});
    }
  });
}

template <class Type>
ReduceParams<Type> ParamsOf(const ReduceArgs& a, int64_t max_dim) {
  using Real = typename Type::Real;
  ReduceParams<Type> p;
  const bool whole = a.bags.whole && WholeGroups(a.grads, a.bags.out_stride, a.bags.out_dtype);
  p.source = {a.bags, a.grads, a.bag_of, a.hyper, whole};
  p.finish = {a.source,
              {a.optimizer, a.decay, a.stochastic, a.hyper, a.state},
              static_cast<Real*>(a.sums),
              a.sum_stride};
  p.n = a.bags.n;
  p.ids = a.ids;
  p.order = a.order;
  p.infos = a.source.infos;
  p.row_offsets = a.source.row_offsets;
  p.tables = a.source.tables;
  p.partial = static_cast<Real*>(a.scratch);
  p.partial_stride = CeilDiv<int64_t>(max_dim, 4) * 4;
  return p;
}

// Updates rows by sums that lie in a.sums.
template <class Type>
struct UpdateBody {
  using Real = typename Type::Real;
  RowSource source;
  RowUpdate<Type> update;
  const Real* sums;
  int64_t stride;
  ACCEL_HD void operator()(int64_t u) const {
    if (u >= source.row_offsets[source.tables] || source.rows[u] == 0) return;
    const RowInfo& info = source.infos[SegmentOf(source.row_offsets, source.tables, u)];
    update(info, reinterpret_cast<char*>(source.rows[u]), source.keys[u],
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
