// File: host_reduce.cuh
//
// The backward on the host: a key's gradients are summed in the order of its occurrences, then its
// row is updated.
#pragma once

#include "csrc/dynamicemb/host_rows.cuh"
#include "csrc/dynamicemb/reduce.cuh"

namespace accel::dynamicemb {

template <class Real>
Numbers<Real> NumbersOf(const Hyper& hyper) {
  Numbers<Real> numbers;
  for (int k = 0; k < Numbers<Real>::kParts; ++k) numbers.Load(hyper, k);
  return numbers;
}

// RowUpdate for one row after the other.
template <class Type>
class HostUpdate {
  using Real = typename Type::Real;
  static constexpr bool kInPlace = std::is_same<typename Type::Stored, Real>::value;

 public:
  HostUpdate(const RowUpdate<Type>& how, const Hyper& hyper)
      : how_(how), h_(NumbersOf<Real>(hyper)) {}

  const Numbers<Real>& numbers() const { return h_; }

  // grad: the sum of the row's gradients.
  void operator()(const RowInfo& info, char* row, const int64_t* key, const Real* grad) {
    switch (how_.optimizer) {
      case Optimizer::kSgd:
        return By<Optimizer::kSgd>(info, row, key, grad);
      case Optimizer::kAdam:
        return By<Optimizer::kAdam>(info, row, key, grad);
      case Optimizer::kAdaGrad:
        return By<Optimizer::kAdaGrad>(info, row, key, grad);
      case Optimizer::kRowwiseAdaGrad:
        return By<Optimizer::kRowwiseAdaGrad>(info, row, key, grad);
      case Optimizer::kFtrl:
        return By<Optimizer::kFtrl>(info, row, key, grad);
    }
  }

 private:
  template <Optimizer kOptimizer>
  void By(const RowInfo& info, char* row, const int64_t* key, const Real* grad) {
    constexpr bool kHasState =
        kOptimizer != Optimizer::kSgd && kOptimizer != Optimizer::kRowwiseAdaGrad;
    constexpr bool kHasTwo = kOptimizer == Optimizer::kAdam || kOptimizer == Optimizer::kFtrl;
    const int64_t dim = info.dim;
    Real* const state0 = reinterpret_cast<Real*>(row + info.state_offset);
    Real* const state1 = state0 + info.state_len;
    Real* const w = Weights(row, dim);
    const Real l2 = h_.weight_decay, off = h_.lr * h_.weight_decay;
    const bool adds = how_.decay == Decay::kL2, takes = how_.decay == Decay::kDecoupled;
    Real fix1 = 1, fix2 = 1;
    if (info.step_offset >= 0) {
      auto* const steps = reinterpret_cast<uint32_t*>(row + info.step_offset);
      const auto step = static_cast<Real>(++*steps);
      if (kOptimizer == Optimizer::kAdam) {
        fix1 = how_.Fix(step, h_.log_beta1);
        fix2 = how_.Fix(step, h_.log_beta2);
      }
    }
    Real denominator = 0;
    if (kOptimizer == Optimizer::kRowwiseAdaGrad) {
      Real sum = 0;
      for (int64_t k = 0; k < dim; ++k) {
        const Real d = adds ? grad[k] + l2 * w[k] : grad[k];
        sum += d * d;
      }
      state0[0] += sum / Real(dim);
      denominator = how_.Root(state0[0]) + h_.eps;
    }
    for (int64_t k = 0; k < dim; ++k) {
      Real x = w[k], s0 = kHasState ? state0[k] : Real(0), s1 = kHasTwo ? state1[k] : Real(0);
      const Real old = x, d = adds ? grad[k] + l2 * old : grad[k];
      how_.template One<kOptimizer>(h_, d, fix1, fix2, denominator, &x, &s0, &s1);
      w[k] = takes ? x - off * old : x;
      if (kHasState) state0[k] = s0;
      if (kHasTwo) state1[k] = s1;
    }
    Real norm = 0;
    if (h_.max_norm > 0) {
      for (int64_t k = 0; k < dim; ++k) norm += w[k] * w[k];
    }
    for (int64_t g = 0; !kInPlace && g * 4 < dim; ++g) how_.Store(row, key, g, w + g * 4);
    if (h_.max_norm > 0) how_.Shrink(info, row, key, how_.Root(norm), h_.max_norm);
  }

  // The row's own, or a copy.
  Real* Weights(char* row, int64_t dim) {
    if constexpr (kInPlace) {
      return reinterpret_cast<Real*>(row);
    } else {
      if (static_cast<int64_t>(spare_.size()) < dim) spare_ = SpareRow<Real>(dim);
      for (int64_t g = 0; g * 4 < dim; ++g) LoadRow(Type{}, row, g, &spare_[g * 4]);
      return spare_.data();
    }
  }

  const RowUpdate<Type>& how_;
  const Numbers<Real> h_;
  std::vector<Real> spare_;
};

template <class Type>
class HostReduce {
  using Real = typename Type::Real;

 public:
  HostReduce(const ReduceParams<Type>& p, int64_t max_dim)
      : p_(p),
        update_(p.finish.update, *p.hyper),
        table_of_(p.finish.source),
        spare_(SpareRow<Real>(max_dim)),
        sum_(spare_) {}

  // The keys that begin in [first, last).
  void operator()(int64_t first, int64_t last) {
    while (first > 0 && first < last && p_.ids[first] == p_.ids[first - 1]) ++first;
    for (int64_t at = first; at < last;) {
      const int64_t id = p_.ids[at];
      const RowInfo& info = table_of_(id);
      FetchRow(at + kFetchAhead);
      std::fill_n(sum_.begin(), info.dim, Real(0));
      for (; at < p_.n && p_.ids[at] == id; ++at) {
        FetchGrad(at + 2 * kFetchAhead, info.dim);
        Add(at, info.dim);
      }
      Finish(info, id);
    }
  }

 private:
  void FetchGrad(int64_t at, int64_t dim) const {
    if (at >= p_.n) return;
    const int64_t size = SizeOf(p_.source.bags.out_dtype);
    Fetch(static_cast<const char*>(p_.source.grads) + p_.source.PlaceOf(p_.order[at]).at * size,
          dim * size);
  }

  void FetchRow(int64_t at) {
    if (at >= p_.n || p_.finish.sums != nullptr) return;
    const int64_t u = p_.ids[at];
    Fetch(reinterpret_cast<const void*>(p_.finish.source.rows[u]), table_of_(u).row_bytes);
  }

  void Add(int64_t at, int64_t dim) {
    const auto place = p_.source.PlaceOf(p_.order[at]);
    const Real* const x =
        ValuesAt(p_.source.bags.out_dtype, p_.source.grads, place.at, dim, spare_.data());
    const Real clip = update_.numbers().clip, scale = place.scale;
    Real* const sum = sum_.data();
    if (clip > 0) {
      for (int64_t k = 0; k < dim; ++k) sum[k] += scale * Max(-clip, Min(clip, x[k]));
    } else {
      for (int64_t k = 0; k < dim; ++k) sum[k] += scale * x[k];
    }
  }

  void Finish(const RowInfo& info, int64_t u) {
    const RowSource& source = p_.finish.source;
    if (p_.finish.sums == nullptr) {
      auto* const row = reinterpret_cast<char*>(source.rows[u]);
      if (row != nullptr) update_(info, row, source.keys + u, sum_.data());
      return;
    }
    Real* const out = p_.finish.sums + u * p_.finish.sum_stride;
    std::copy_n(sum_.begin(), info.dim, out);
    std::fill(out + info.dim, out + p_.finish.sum_stride, Real(0));
  }

  const ReduceParams<Type>& p_;
  HostUpdate<Type> update_;
  TableOf table_of_;
  std::vector<Real> spare_, sum_;
};

template <class Type>
void ReduceOnHost(int threads, const ReduceParams<Type>& p, int64_t max_dim) {
  Share(threads, p.n, 1 << 10,
        [&](int64_t first, int64_t last) { HostReduce<Type>(p, max_dim)(first, last); });
}

// Updates rows [0, n) by sums that lie in memory.
template <class Type>
void UpdateOnHost(int threads, int64_t n, const Hyper& hyper, const UpdateBody<Type>& body) {
  const RowSource& source = body.source;
  const int64_t there = Min(n, source.row_offsets[source.tables]);
  Share(threads, there, 1 << 10, [&](int64_t begin, int64_t end) {
    HostUpdate<Type> update(body.update, hyper);
    TableOf table_of(source);
    std::vector<typename Type::Real> grad;
    for (int64_t u = begin; u < end; ++u) {
      if (source.rows[u] == 0) continue;
      const RowInfo& info = table_of(u);
      grad.assign(static_cast<size_t>(info.dim), 0);
      std::copy_n(body.sums + u * body.stride, Min(info.dim, body.stride), grad.begin());
      update(info, reinterpret_cast<char*>(source.rows[u]), source.keys + u, grad.data());
    }
  });
}

}  // namespace accel::dynamicemb
