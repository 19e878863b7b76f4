// File: host_lookup.cuh
//
// The lookup on the host.
#pragma once

#include "csrc/common/large_pages.h"
#include "csrc/dynamicemb/host_rows.cuh"

namespace accel::dynamicemb {

template <class Type>
class HostLookup {
  using Real = typename Type::Real;

 public:
  HostLookup(const Bags& bags, const RowSource& source, void* out)
      : bags_(bags), source_(source), out_(out), table_of_(source) {
    int64_t most = bags.out_stride;
    for (int64_t t = 0; t < source.tables; ++t) most = Max(most, source.infos[t].dim);
    spare_ = SpareRow<Real>(most);
    sum_ = spare_;
  }

  // Occurrences [begin, end), each a row of the output.
  void Sequence(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      FetchRow(i + kFetchAhead, end);
      const int64_t u = RowOf(i), stride = bags_.out_stride;
      const RowInfo& info = table_of_(u);
      const int64_t dim = Min(info.dim, stride);
      PutValues(bags_.out_dtype, out_, i * stride, dim, Values(info, u));
      if (dim < stride) {
        std::fill(sum_.begin(), sum_.end(), Real(0));
        PutValues(bags_.out_dtype, out_, i * stride + dim, stride - dim, sum_.data());
      }
    }
  }

  // Bags [begin, end).
  void Pool(int64_t begin, int64_t end) {
    const int64_t last = end > begin ? bags_.offsets[end] : 0;
    const auto* const weights = static_cast<const Real*>(bags_.weights);
    Real* const sum = sum_.data();
    for (int64_t bag = begin; bag < end; ++bag) {
      const int64_t feature = bag / bags_.batch, sample = bag % bags_.batch;
      const RowInfo& info = source_.infos[bags_.feature_table[feature]];
      const int64_t column = bags_.dim_offsets[feature];
      const int64_t dim = bags_.dim_offsets[feature + 1] - column;
      const int64_t first = bags_.offsets[bag], stop = bags_.offsets[bag + 1];
      std::fill_n(sum, dim, Real(0));
      for (int64_t i = first; i < stop; ++i) {
        FetchRow(i + kFetchAhead, last);
        const Real* const x = Values(info, RowOf(i));
        const Real w = weights != nullptr ? weights[i] : Real(1);
        for (int64_t k = 0; k < dim; ++k) sum[k] += w * x[k];
      }
      if (bags_.pooling == Pooling::kMean && stop > first) {
        const Real scale = Real(1) / Real(stop - first);
        for (int64_t k = 0; k < dim; ++k) sum[k] *= scale;
      }
      PutValues(bags_.out_dtype, out_, sample * bags_.out_stride + column, dim, sum);
    }
  }

 private:
  int64_t RowOf(int64_t i) const { return source_.inverse ? source_.inverse[i] : i; }

  void FetchRow(int64_t i, int64_t end) {
    if (i >= end) return;
    const int64_t u = RowOf(i);
    Fetch(reinterpret_cast<const void*>(source_.rows[u]),
          table_of_(u).dim * static_cast<int64_t>(sizeof(typename Type::Stored)));
  }

  const Real* Values(const RowInfo& info, int64_t u) {
    if (source_.rows[u] != 0) {
      const auto* const row = reinterpret_cast<const void*>(source_.rows[u]);
      return ValuesAt(source_.dtype, row, 0, info.dim, spare_.data());
    }
    for (int64_t g = 0; g * 4 < info.dim; ++g) {
      MissingValues(Type{}, source_, info, source_.keys[u], g, &spare_[static_cast<size_t>(g * 4)]);
    }
    return spare_.data();
  }

  const Bags& bags_;
  const RowSource& source_;
  void* const out_;
  TableOf table_of_;
  std::vector<Real> spare_, sum_;
};

template <class Type>
void LookupOnHost(int threads, int64_t n, const Bags& bags, const RowSource& source, void* out) {
  const int64_t rows = bags.pooling == Pooling::kNone ? bags.n : bags.batch;
  InLargePages(out, static_cast<size_t>(rows * bags.out_stride * SizeOf(bags.out_dtype)));
  Share(threads, n, 1 << 10, [&](int64_t begin, int64_t end) {
    HostLookup<Type> lookup(bags, source, out);
    if (bags.pooling == Pooling::kNone) {
      lookup.Sequence(begin, end);
    } else {
      lookup.Pool(begin, end);
    }
  });
}

}  // namespace accel::dynamicemb
