// File: index_calculation.cu
//
// Where an index belongs, which are chosen, and the order of occurrences by row.
#include <cub/device/device_radix_sort.cuh>

#include "csrc/common/scratch.h"
#include "csrc/dynamicemb/host_rows.cuh"
#include "csrc/dynamicemb/scan.cuh"

namespace accel::dynamicemb {

struct ExpandIdsBody {
  const int64_t* offsets;
  int64_t segments;
  int32_t* out;
  ACCEL_HD void operator()(int64_t i) const {
    out[i] = static_cast<int32_t>(SegmentOf(offsets, segments, i));
  }
};

int ExpandIds(const Where& where, int64_t n, int64_t segments, const int64_t* offsets,
              int32_t* out) {
  return Each(where, n, ExpandIdsBody{offsets, segments, out});
}

struct SelectBody {
  int64_t n;
  const bool* flags;
  const int64_t* inputs;
  int64_t *out, *count;
  ACCEL_HD int64_t Value(int64_t i) const { return flags[i]; }
  ACCEL_HD void Store(int64_t i, int64_t before, int64_t) const {
    if (i == n) {
      *count = before;
    } else if (flags[i]) {
      out[before] = inputs ? inputs[i] : i;
    }
  }
};

size_t SelectScratch(int64_t n) { return ScanScratch(n); }

int Select(const Where& where, int64_t n, const bool* flags, const int64_t* inputs, int64_t* out,
           int64_t* count, void* scratch) {
  return Scan(where, n, SelectBody{n, flags, inputs, out, count}, scratch);
}

struct AddOneBody {
  int64_t* count;
  ACCEL_HD void operator()(int64_t) const { ++*count; }
};

int AddOne(const Where& where, int64_t* count) { return Each(where, 1, AddOneBody{count}); }

template <class Word>
struct CopyRowsBody {
  const int64_t* rows;
  Word* data;
  int64_t words;
  bool load;
  const uint8_t* chosen;
  ACCEL_HD void operator()(int64_t u) const {
    auto* const row = reinterpret_cast<Word*>(rows[u]);
    if (!load && (row == nullptr || (chosen != nullptr && chosen[u] == 0))) return;
    for (int64_t w = Team::lane(); w < words; w += Team::kLanes) {
      if (load) {
        data[u * words + w] = row != nullptr ? row[w] : Word();
      } else {
        row[w] = data[u * words + w];
      }
    }
  }
};

void CopyRowsOnHost(int threads, int64_t n, const int64_t* rows, char* data, int64_t bytes,
                    bool load, const uint8_t* chosen) {
  const auto size = static_cast<size_t>(bytes);
  Share(threads, n, 1 << 10, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      if (u + kFetchAhead < end) Fetch(reinterpret_cast<void*>(rows[u + kFetchAhead]), bytes);
      auto* const row = reinterpret_cast<char*>(rows[u]);
      char* const mine = data + u * bytes;
      if (load && row == nullptr) {
        std::memset(mine, 0, size);
      } else if (load) {
        std::memcpy(mine, row, size);
      } else if (row != nullptr && (chosen == nullptr || chosen[u] != 0)) {
        std::memcpy(row, mine, size);
      }
    }
  });
}

int CopyRows(const Where& where, int64_t n, const int64_t* rows, void* data, int64_t bytes,
             bool load, const uint8_t* chosen) {
  if (!where.cuda) {
    CopyRowsOnHost(where.threads, n, rows, static_cast<char*>(data), bytes, load, chosen);
    return cudaSuccess;
  }
  if (bytes % 16 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0) {
    return EachTeam(where, n,
                    CopyRowsBody<uint4>{rows, static_cast<uint4*>(data), bytes / 16, load, chosen});
  }
  return EachTeam(
      where, n,
      CopyRowsBody<uint32_t>{rows, static_cast<uint32_t*>(data), bytes / 4, load, chosen});
}

struct IotaBody {
  int32_t* out;
  ACCEL_HD void operator()(int64_t i) const { out[i] = static_cast<int32_t>(i); }
};

// Bits of the numbers 0 ... n - 1.
inline int BitsOf(int64_t n) {
  int bits = 1;
  while ((int64_t{1} << bits) < n) ++bits;
  return bits;
}

size_t SortScratch(const Where& where, int64_t n) {
  if (!where.cuda) return static_cast<size_t>(4 * (n + 1));
  size_t bytes = 0;
  const auto count = static_cast<int>(n);
  const int32_t* const none = nullptr;
  int32_t* const out = nullptr;
  cub::DeviceRadixSort::SortPairs(nullptr, bytes, none, out, none, out, count, 0, BitsOf(n));
  return AlignScratch(static_cast<size_t>(4 * n)) + bytes;
}

// A counting sort: no number is greater than n - 1.
void HostSort(const SortArgs& a) {
  auto* const starts = static_cast<int32_t*>(a.scratch);
  std::fill(starts, starts + a.n + 1, 0);
  for (int64_t i = 0; i < a.n; ++i) ++starts[a.inverse[i] + 1];
  for (int64_t i = 0; i < a.n; ++i) starts[i + 1] += starts[i];
  for (int64_t i = 0; i < a.n; ++i) {
    const int32_t to = starts[a.inverse[i]]++;
    a.ids[to] = a.inverse[i];
    a.order[to] = static_cast<int32_t>(i);
  }
}

int SortByRow(const Where& where, const SortArgs& a) {
  if (a.n == 0) return cudaSuccess;
  if (!where.cuda) {
    HostSort(a);
    return cudaSuccess;
  }
  auto* const indices = static_cast<int32_t*>(a.scratch);
  if (const int code = Each(where, a.n, IotaBody{indices})) return code;
  const size_t used = AlignScratch(static_cast<size_t>(4 * a.n));
  size_t bytes = a.scratch_bytes - used;
  return cub::DeviceRadixSort::SortPairs(static_cast<char*>(a.scratch) + used, bytes, a.inverse,
                                         a.ids, static_cast<const int32_t*>(indices), a.order,
                                         static_cast<int>(a.n), 0, BitsOf(a.n),
                                         static_cast<cudaStream_t>(where.stream));
}

}  // namespace accel::dynamicemb
