// File: unique_op.cu
//
// The distinct keys of each table, in the order of their first occurrence, so that the result is
// the same on every device and in every run. A slot of the hash table holds the index of a key's
// first occurrence so far; any 64 bits are a key.
#include "csrc/common/scratch.h"
#include "csrc/dynamicemb/scan.cuh"

namespace accel::dynamicemb {

struct UniqueParts {
  int64_t slots;  // a power of two
  size_t slots_at, place_at, before_at, sums_at, bytes;

  explicit UniqueParts(int64_t n) : slots(64) {
    while (slots < 2 * n) slots *= 2;
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

struct FirstBody {
  UniqueArgs a;
  uint32_t mask;
  int32_t *slots, *place;

  ACCEL_HD void operator()(int64_t index) const {
    const int64_t t = SegmentOf(a.offsets, a.tables, index);
    const int64_t first = a.offsets[t], last = a.offsets[t + 1], key = a.keys[index];
    const auto i = static_cast<int32_t>(index);
    auto p =
        static_cast<uint32_t>(Mix(static_cast<uint64_t>(key) + 0x9e3779b97f4a7c15u * t)) & mask;
    for (;; p = (p + 1) & mask) {
      const int32_t there = Take(p, i);
      if (there == -1) break;
      if (there < first || there >= last || a.keys[there] != key) continue;
      if (i < there) Lower(p, i);
      break;
    }
    place[i] = static_cast<int32_t>(p);
  }

  // Puts i into an empty slot, else says who is there.
  ACCEL_HD int32_t Take(uint32_t p, int32_t i) const {
#if defined(__CUDA_ARCH__)
    const int32_t seen = *static_cast<volatile int32_t*>(slots + p);
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

struct CountFirsts {
  const int32_t *slots, *place;
  const int64_t* keys;
  int32_t* before;
  int64_t* unique;
  int64_t n;
  ACCEL_HD int64_t Value(int64_t i) const { return slots[place[i]] == i; }
  ACCEL_HD void Store(int64_t i, int64_t sum) const {
    before[i] = static_cast<int32_t>(sum);
    if (i < n && slots[place[i]] == i) unique[sum] = keys[i];
  }
};

struct ZeroBody {
  int64_t* data;
  ACCEL_HD void operator()(int64_t i) const { data[i] = 0; }
};

struct InverseBody {
  UniqueArgs a;
  const int32_t *slots, *place, *before;
  ACCEL_HD void operator()(int64_t i) const {
    if (i <= a.tables) a.unique_offsets[i] = before[a.offsets[i]];
    if (i >= a.n) return;
    const int32_t id = before[slots[place[i]]];
    a.inverse[i] = id;
    if (a.counts == nullptr) return;
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
  auto* const place = reinterpret_cast<int32_t*>(scratch + parts.place_at);
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
  const auto mask = static_cast<uint32_t>(parts.slots - 1);
  if (const int code = Each(where, a.n, FirstBody{a, mask, slots, place})) return code;
  const CountFirsts firsts = {slots, place, a.keys, before, a.unique, a.n};
  if (const int code = Scan(where, a.n, firsts, scratch + parts.sums_at)) return code;
  return Each(where, Max(a.n, a.tables + 1), InverseBody{a, slots, place, before});
}

}  // namespace accel::dynamicemb
