// File: host_rows.cuh
//
// Whole rows on the host, in loops that the compiler makes vectors of. Rows and gradients lie
// anywhere in memory: those of the next occurrences are fetched while one is worked on.
#pragma once

#include <type_traits>
#include <vector>

#include "csrc/dynamicemb/row.cuh"

namespace accel::dynamicemb {

constexpr int64_t kFetchAhead = 6;

inline void Fetch(const void* data, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) {
    __builtin_prefetch(static_cast<const char*>(data) + at);
  }
}

// The tables of rows that mostly follow one another.
class TableOf {
 public:
  explicit TableOf(const RowSource& source) : source_(source) {}

  const RowInfo& operator()(int64_t u) {
    if (u < source_.row_offsets[table_] || u >= source_.row_offsets[table_ + 1]) {
      table_ = SegmentOf(source_.row_offsets, source_.tables, u);
    }
    return source_.infos[table_];
  }

 private:
  const RowSource& source_;
  int64_t table_ = 0;
};

// Values at `at` of a tensor as Real: where they lie, or in `spare`.
template <class Real>
const Real* ValuesAt(DType dtype, const void* data, int64_t at, int64_t n, Real* spare) {
  const Real* values = spare;
  WithType(dtype, [&](auto type) {
    const auto* const in = static_cast<const typename decltype(type)::Stored*>(data) + at;
    if constexpr (std::is_same<typename decltype(type)::Stored, Real>::value) {
      values = in;
    } else {
      for (int64_t k = 0; k < n; ++k) spare[k] = static_cast<Real>(Widen(type, in[k]));
    }
  });
  return values;
}

template <class Real>
void PutValues(DType dtype, void* data, int64_t at, int64_t n, const Real* x) {
  WithType(dtype, [&](auto type) {
    auto* const out = static_cast<typename decltype(type)::Stored*>(data) + at;
    if constexpr (std::is_same<typename decltype(type)::Stored, Real>::value) {
      std::memcpy(out, x, static_cast<size_t>(n) * sizeof(Real));
    } else {
      for (int64_t k = 0; k < n; ++k) {
        out[k] = Narrow(type, static_cast<typename decltype(type)::Real>(x[k]));
      }
    }
  });
}

template <class Real>
std::vector<Real> SpareRow(int64_t dim) {
  return std::vector<Real>(static_cast<size_t>(CeilDiv<int64_t>(dim, 4) * 4));
}

}  // namespace accel::dynamicemb
