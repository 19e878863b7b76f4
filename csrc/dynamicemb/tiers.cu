// File: tiers.cu
//
// Rows on their way between tiers. How many there are only the device knows: a few blocks go
// through all of them, so that none costs next to nothing, and many leave the multiprocessors to
// the step that runs beside.
#include <cstring>

#include "csrc/dynamicemb/scan.cuh"
#include "csrc/dynamicemb/tiers.h"

namespace accel::dynamicemb {

// Enough to fill the memory, or the link to the host, with rows on their way.
struct Blocks {
  int64_t most;
  int threads;
};
constexpr Blocks kOfMemory = {1024, 256}, kOfLink = {16, 512};

// body(i) by a Team for each i < *end: what block `at` of `blocks` does.
template <class Body>
__device__ __forceinline__ void DoCounted(int64_t end, const Body& body, int64_t at,
                                          int64_t blocks) {
  const int64_t warps = blockDim.x / 32;
  for (int64_t i = at * warps + threadIdx.x / 32; i < end; i += blocks * warps) body(i);
}

template <class Body>
__global__ void __launch_bounds__(kOfLink.threads) CountedKernel(const int64_t* end, Body body) {
  DoCounted(*end, body, blockIdx.x, gridDim.x);
}

// n: what *end is at most.
template <class Body>
int Counted(const Where& where, int64_t n, const int64_t* end, const Blocks& blocks,
            const Body& body) {
  if (n == 0) return cudaSuccess;
  if (!where.cuda) {
    HostEach(where.threads, *end, 1 << 10, body);
    return cudaSuccess;
  }
  const int64_t grid = std::min(blocks.most, CeilDiv<int64_t>(n, blocks.threads / 32));
  CountedKernel<<<static_cast<unsigned>(grid), blocks.threads, 0,
                  static_cast<cudaStream_t>(where.stream)>>>(end, body);
  return cudaGetLastError();
}

// bytes: a multiple of 16. On a GPU four words of each lane are on their way at once.
ACCEL_HD void CopyByTeam(const void* from, void* to, int64_t bytes) {
#if defined(__CUDA_ARCH__)
  const auto* const source = static_cast<const uint4*>(from);
  auto* const target = static_cast<uint4*>(to);
  const int64_t words = bytes / 16;
  for (int64_t begin = Team::lane(); begin < words; begin += 4 * Team::kLanes) {
    uint4 held[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (begin + k * Team::kLanes < words) held[k] = source[begin + k * Team::kLanes];
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (begin + k * Team::kLanes < words) target[begin + k * Team::kLanes] = held[k];
    }
  }
#else
  std::memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

// Where entry i of the tight lists comes from.
ACCEL_HD int64_t SourceOf(const TightenArgs& a, int64_t i) {
  const int64_t t = SegmentOf(a.ends, a.tables, i);
  return i - a.ends[t] + a.offsets[t];
}

ACCEL_HD const char* RowOf(const TightenArgs& a, int64_t source) {
  return static_cast<const char*>(a.lists.rows) + source * a.row_bytes;
}

struct TightenBody {
  TightenArgs a;
  ACCEL_HD void operator()(int64_t i) const {
    const int64_t from = SourceOf(a, i);
    if (Team::lane() == 0) {
      a.keys[i] = a.lists.keys[from];
      a.scores[i] = a.lists.scores[from];
    }
    if (a.rows == nullptr) return;
    CopyByTeam(RowOf(a, from), static_cast<char*>(a.rows) + i * a.row_bytes, a.row_bytes);
  }
};

int Tighten(const Where& where, const TightenArgs& a) {
  return Counted(where, a.n, a.ends + a.tables, kOfMemory, TightenBody{a});
}

// back: the rows of keys that came back, or else the others.
struct LowerBody {
  LowerArgs a;
  bool back;
  ACCEL_HD void operator()(int64_t i) const {
    if (a.to[i] == 0 || (a.again[i] != 0) != back) return;
    CopyByTeam(RowOf(a.lists, SourceOf(a.lists, i)), reinterpret_cast<void*>(a.to[i]),
               a.lists.row_bytes);
  }
};

struct RefusedBody {
  RefusedArgs a;
  ACCEL_HD int64_t Value(int64_t i) const { return i < a.offsets[a.tables] && a.rows[i] == 0; }
  ACCEL_HD void Store(int64_t i, int64_t before, int64_t refused) const {
    if (i == a.n) {
      *a.count = before;
    } else if (refused != 0) {
      a.places[before] = i;
      a.some_keys[before] = a.keys[i];
      if (a.some_scores != nullptr) a.some_scores[before] = a.scores[i];
    }
  }
};

// ends[t]: how many places are before offsets[t].
struct RefusedEndsBody {
  RefusedArgs a;
  ACCEL_HD void operator()(int64_t t) const {
    int64_t low = 0, high = *a.count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (a.places[middle] < a.offsets[t]) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    a.ends[t] = low;
  }
};

size_t RefusedScratch(int64_t n) { return ScanScratch(n); }

int Refused(const Where& where, const RefusedArgs& a) {
  if (const int code = Scan(where, a.n, RefusedBody{a}, a.scratch)) return code;
  return Each(where, a.tables + 1, RefusedEndsBody{a});
}

// Whether row i is taken; its status is said.
ACCEL_HD bool Takes(const TakeArgs& a, int64_t i) {
  const uint8_t status = a.status[i];
  const bool takes = (status == 2 || status == 3) && a.below[i] != 0;
  a.now[i] = takes ? 1 : status;
  return takes;
}

ACCEL_HD void TakeRow(const TakeArgs& a, int64_t i) {
  CopyByTeam(reinterpret_cast<const void*>(a.below[i]), reinterpret_cast<void*>(a.rows[i]),
             a.row_bytes);
}

// A warp asks for 32 rows at once: most are not taken.
__device__ __forceinline__ void DoTake(const TakeArgs& a, int64_t at, int64_t blocks) {
  const int64_t lane = threadIdx.x % 32, step = blocks * blockDim.x;
  for (int64_t first = at * blockDim.x + threadIdx.x - lane; first < a.n; first += step) {
    const bool takes = first + lane < a.n && Takes(a, first + lane);
    for (unsigned left = __ballot_sync(0xffffffff, takes); left != 0; left &= left - 1) {
      TakeRow(a, first + __ffs(static_cast<int>(left)) - 1);
    }
  }
}

template <class Unused>
__global__ void __launch_bounds__(kOfLink.threads) TakeKernel(TakeArgs a) {
  DoTake(a, blockIdx.x, gridDim.x);
}

// The first half of the blocks sends, the other one fetches: the link carries both at once.
template <class Unused>
__global__ void __launch_bounds__(kOfLink.threads) ExchangeKernel(LowerBody lower, TakeArgs take) {
  const int64_t half = gridDim.x / 2, at = blockIdx.x;
  if (at < half) {
    DoCounted(lower.a.lists.ends[lower.a.lists.tables], lower, at, half);
  } else {
    DoTake(take, at - half, half);
  }
}

int Take(const Where& where, const TakeArgs& a) {
  if (a.n == 0) return cudaSuccess;
  if (!where.cuda) {
    HostEach(where.threads, a.n, 1 << 10, [&](int64_t i) {
      if (Takes(a, i)) TakeRow(a, i);
    });
    return cudaSuccess;
  }
  const int64_t grid = std::min(kOfLink.most, CeilDiv<int64_t>(a.n, kOfLink.threads));
  TakeKernel<void><<<static_cast<unsigned>(grid), kOfLink.threads, 0,
                     static_cast<cudaStream_t>(where.stream)>>>(a);
  return cudaGetLastError();
}

int Exchange(const Where& where, const LowerArgs& lower, const TakeArgs& take) {
  const TightenArgs& lists = lower.lists;
  const int64_t* const end = lists.ends + lists.tables;
  if (lists.n == 0) return Take(where, take);
  if (const int code = Counted(where, lists.n, end, kOfMemory, LowerBody{lower, true})) return code;
  const LowerBody others = {lower, false};
  if (!where.cuda) {
    HostEach(where.threads, *end, 1 << 10, others);
    return Take(where, take);
  }
  const int64_t rows = std::max(lists.n, take.n);
  const int64_t half = std::min(kOfLink.most, CeilDiv<int64_t>(rows, kOfLink.threads / 32));
  ExchangeKernel<void><<<static_cast<unsigned>(2 * half), kOfLink.threads, 0,
                         static_cast<cudaStream_t>(where.stream)>>>(others, take);
  return cudaGetLastError();
}

struct PlaceBody {
  PlaceArgs a;
  ACCEL_HD void operator()(int64_t i) const {
    if (Team::lane() != 0) return;
    a.rows[a.places[i]] = a.found_rows[i];
    a.status[a.places[i]] = a.found_status[i];
  }
};

int Place(const Where& where, const PlaceArgs& a) {
  return Counted(where, a.n, a.count, kOfMemory, PlaceBody{a});
}

}  // namespace accel::dynamicemb
