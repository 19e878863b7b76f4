// File: unique_op.cu
//
// The distinct keys of each table, in the order of their first occurrence, so that the result is
// the same on every device and in every run. A slot of the hash table holds the index of a key's
// first occurrence so far; any 64 bits are a key. Each table of keys has two slots for each of its
// keys, apart from those of the others: at a time the caches need to hold those of one.
#include "csrc/common/scratch.h"
#include "csrc/dynamicemb/scan.cuh"

namespace accel::dynamicemb {

constexpr uint32_t kNoSlot = 0xffffffff;  // of an index that is in no segment

struct UniqueParts {
  int64_t slots;
  size_t slots_at, place_at, before_at, sums_at, bytes;

  explicit UniqueParts(int64_t n) : slots(2 * n) {
    ScratchLayout layout;
    slots_at = layout.Add(static_cast<size_t>(4 * slots));
    place_at = layout.Add(static_cast<size_t>(4 * n));
    before_at = layout.Add(static_cast<size_t>(4 * (n + 1)));
    sums_at = layout.Add(ScanScratch(n));
    bytes = layout.bytes();
  }
};

size_t UniqueScratch(int64_t n, int64_t) { return UniqueParts(n).bytes; }

ACCEL_HD uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdu;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53u;
  return x ^ x >> 33;
}

// high * low / 2^32: spreads a hash over [0, size).
ACCEL_HD uint32_t Spread(uint64_t hash, uint32_t size) {
  return static_cast<uint32_t>((hash >> 32) * size >> 32);
}

struct FirstBody {
  UniqueArgs a;
  int32_t* slots;
  uint32_t* place;

  ACCEL_HD void operator()(int64_t index) const {
    const int64_t t = SegmentOf(a.offsets, a.tables, index);
    const int64_t first = Max<int64_t>(a.offsets[t], 0), last = Min(a.offsets[t + 1], a.n);
    if (index < first || index >= last) {
      place[index] = kNoSlot;
      return;
    }
    const int64_t key = a.keys[index];
    const auto i = static_cast<int32_t>(index);
    const auto begin = static_cast<uint32_t>(2 * first), end = static_cast<uint32_t>(2 * last);
    uint32_t p = begin + Spread(Mix(static_cast<uint64_t>(key)), end - begin);
    for (;; p = p + 1 < end ? p + 1 : begin) {
      const int32_t there = Take(p, i);
      if (there == -1) break;
      if (a.keys[there] != key) continue;
      if (i < there) Lower(p, i);
      break;
    }
    place[i] = p;
  }

  // Puts i into an empty slot, else says who is there. What a cache still holds will do: a slot
  // never changes its key, and its index only falls.
  ACCEL_HD int32_t Take(uint32_t p, int32_t i) const {
#if defined(__CUDA_ARCH__)
    const int32_t seen = __ldca(slots + p);
    return seen != -1 ? seen : atomicCAS(slots + p, -1, i);
#else
    const int32_t seen = slots[p];
    if (seen == -1) slots[p] = i;
    return seen;
#endif
  }
  ACCEL_HD void Lower(uint32_t p, int32_t i) const {
#if defined(__CUDA_ARCH__)
    atomicMin(slots + p, i);
#else
    slots[p] = i < slots[p] ? i : slots[p];
#endif
  }
};

// The slot of a first occurrence then holds ~ its number, which no index is equal to.
struct CountFirsts {
  int32_t* slots;
  const uint32_t* place;
  const int64_t* keys;
  int32_t* before;
  int64_t* unique;
  int64_t n;
  ACCEL_HD int64_t Value(int64_t i) const { return place[i] != kNoSlot && slots[place[i]] == i; }
  ACCEL_HD void Store(int64_t i, int64_t sum, int64_t value) const {
    before[i] = static_cast<int32_t>(sum);
    if (value == 0) return;
    unique[sum] = keys[i];
    slots[place[i]] = ~static_cast<int32_t>(sum);
  }
};

struct ZeroBody {
  int64_t* data;
  ACCEL_HD void operator()(int64_t i) const { data[i] = 0; }
};

struct InverseBody {
  UniqueArgs a;
  const int32_t* slots;
  const uint32_t* place;
  const int32_t* before;
  ACCEL_HD void operator()(int64_t i) const {
    if (i <= a.tables) a.unique_offsets[i] = before[Max<int64_t>(0, Min(a.offsets[i], a.n))];
    if (i >= a.n) return;
    const int32_t id = place[i] != kNoSlot ? ~slots[place[i]] : 0;
    a.inverse[i] = id;
    if (a.counts == nullptr || place[i] == kNoSlot) return;
    const int64_t frequency = a.frequencies ? a.frequencies[i] : 1;
#if defined(__CUDA_ARCH__)
    auto* const count = reinterpret_cast<unsigned long long*>(a.counts + id);
    if (a.frequencies != nullptr) {
      atomicAdd(count, static_cast<unsigned long long>(frequency));
      return;
    }
    const unsigned same = __match_any_sync(__activemask(), id);
    if (threadIdx.x % 32 == __ffs(same) - 1) {
      atomicAdd(count, static_cast<unsigned long long>(__popc(same)));
    }
#else
    a.counts[id] += frequency;
#endif
  }
};

int Unique(const Where& in, const UniqueArgs& a) {
  Where where = in;
  where.threads = 1;  // the host's bodies share slots
  const UniqueParts parts(a.n);
  char* const scratch = static_cast<char*>(a.scratch);
  auto* const slots = reinterpret_cast<int32_t*>(scratch + parts.slots_at);
  auto* const place = reinterpret_cast<uint32_t*>(scratch + parts.place_at);
  auto* const before = reinterpret_cast<int32_t*>(scratch + parts.before_at);
  const auto slot_bytes = static_cast<size_t>(4 * parts.slots);
  if (where.cuda) {
    const auto stream = static_cast<cudaStream_t>(where.stream);
    if (const cudaError_t code = cudaMemsetAsync(slots, 0xff, slot_bytes, stream)) return code;
  } else {
    std::fill(slots, slots + parts.slots, -1);
  }
  if (a.counts != nullptr) {
    if (const int code = Each(where, a.n, ZeroBody{a.counts})) return code;
  }
  if (const int code = Each(where, a.n, FirstBody{a, slots, place})) return code;
  const CountFirsts firsts = {slots, place, a.keys, before, a.unique, a.n};
  if (const int code = Scan(where, a.n, firsts, scratch + parts.sums_at)) return code;
  return Each(where, Max(a.n, a.tables + 1), InverseBody{a, slots, place, before});
}

}  // namespace accel::dynamicemb
