// File: upsert_kernel.cuh
//
// The kernel of every call that writes by key. Of a large batch it takes what the passes
// (passes.cuh) left. With an Equals its blocks wait for one another, so they must run at the same
// time (a cooperative launch).
#pragma once

#include <cooperative_groups.h>

#include "csrc/hkv/equals.cuh"
#include "csrc/hkv/upsert.cuh"

namespace hkv {
namespace device {

constexpr uint64_t kFewKeys = 512;  // too few to look for equal ones

template <WriteMode kMode, class Value>
__device__ __forceinline__ void UpsertAll(const View& t, const UpsertArgs& a, const Equals& e,
                                          WarpScratch& scratch) {
  const Guard guard(t, a);
  const bool leads = blockIdx.x == 0 && threadIdx.x == 0;
  if (leads && MayLowerScores(a.rule, Inserts(kMode))) ++t.state->lowered;
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  const uint32_t* list = a.list;
  uint64_t size = list != nullptr ? Load(a.list_size) : a.n;
  enum {
    kTry,    // all keys, impatiently
    kGroup,  // those that are left
    kLead,   // the first of equal keys, then the others follow
    kEnd     // what is at hand, patiently
  } phase = kTry;
  if (e.map == nullptr || (list != nullptr && size <= kFewKeys)) {
    phase = kEnd;
  } else if (list != nullptr && size > a.n / 8) {
    phase = kGroup;  // the passes leave so many only if there are many equal ones
  }
#pragma unroll 1
  for (;;) {
    if (phase != kGroup) {
      // Few keys are spread over all warps: a warp makes its evictions one after the other.
      const uint64_t warps = step / 32, lane = threadIdx.x & 31;
      const uint64_t each = min(uint64_t{32}, (size + warps - 1) / warps);
      for (uint64_t first = ThreadIndex() / 32 * each; first < size; first += warps * each) {
        const uint64_t at = first + lane;
        const bool active = lane < each && at < size;
        const uint64_t i = active && list != nullptr ? LoadRelaxed(list + at) : at;
        const bool patient = phase != kTry;
        const bool left = UpsertKeys<kMode, Value>(t, a, scratch, guard, i, active, patient);
        __syncwarp();
        if (patient) continue;
        const uint64_t l = Append(e.counters + kLeft, left);
        if (left) e.left[l] = static_cast<uint32_t>(i);
      }
    }
    if (phase == kEnd) return;
    const auto grid = cooperative_groups::this_grid();
    if (phase == kTry) {
      grid.sync();
      list = e.left;
      size = Load(e.counters + kLeft);
      if (size == 0) return;
      grid.sync();
      if (leads) e.counters[kLeft] = 0;
      phase = size <= kFewKeys ? kEnd : kGroup;
    } else if (phase == kGroup) {
      if (leads) e.counters[kLate] = 0;
      Group(a, e, list, size);
      grid.sync();
      list = e.leaders;
      size = Load(e.counters + kLeaders);
      phase = kLead;
    } else {
      grid.sync();
      Follow<kMode, Value>(t, a, e, scratch);
      grid.sync();
      if (leads) e.counters[kLeaders] = e.counters[kFollowers] = 0;
      size = Load(e.counters + kLate);
      if (size == 0) return;
      phase = kEnd;
    }
  }
}

template <WriteMode kMode, class Value = char>
__global__ void __launch_bounds__(kThreads, kUpsertBlocks)
    UpsertKernel(const View t, const UpsertArgs a, const Equals e) {
  __shared__ WarpScratch scratches[kThreads / 32];
  UpsertAll<kMode, Value>(t, a, e, scratches[threadIdx.x / 32]);
  EndCall(a, 1, [&](uint32_t) { return t.state; });
}

}  // namespace device
}  // namespace hkv
