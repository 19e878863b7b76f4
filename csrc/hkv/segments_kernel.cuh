// File: segments_kernel.cuh
//
// Kernels of the calls over many tables (Segments in calls.h): one launch for all of them. A warp
// works on keys of one table, so that within it everything is as in a call on that table alone.
#pragma once

#include "csrc/hkv/lookup_kernel.cuh"
#include "csrc/hkv/scan_kernels.cuh"
#include "csrc/hkv/upsert.cuh"

namespace hkv {
namespace device {

constexpr uint32_t kSegmentTables = 64;  // of a launch: they are its parameters

// A table of a launch.
struct SegmentTable {
  View view;
  uint64_t epoch = 0;
  uint64_t clock_offset = 0;
  uint32_t word_bytes = 16;
  ScoreRule rule = ScoreRule::kGiven;
  bool admits_all = false;
  bool at_home = false;
};

struct SegmentTables {
  uint32_t count = 0;
  const uint64_t* offsets = nullptr;  // (count + 1)
  SegmentTable table[kSegmentTables];
};

// What a warp works on: the keys begin ... end - 1 of table t, at most 32; none if begin >= end.
struct WarpPart {
  uint32_t t = 0;
  uint64_t first = 0;  // key of the table
  uint64_t begin = 0, end = 0;
};

// Table t has the warps from offsets[t] / 32 + t on: more than enough for its keys, and never one
// of another's. Whole warps only.
__device__ __forceinline__ WarpPart PartOfWarp(const SegmentTables& s, uint64_t n) {
  const uint32_t lane = threadIdx.x & 31;
  const uint64_t first = min(s.offsets[0], n);
  const auto start = [&](uint32_t t) { return min(s.offsets[t], n) / 32 + t; };
  const uint64_t warp = ThreadIndex() / 32 + first / 32;
  WarpPart part;
  uint32_t before = 0;  // tables whose warps begin before this one or with it
#pragma unroll
  for (uint32_t t = 0; t < kSegmentTables; t += 32) {
    if (t < s.count) {
      before += __popc(__ballot_sync(kFullMask, t + lane < s.count && start(t + lane) <= warp));
    }
  }
  part.t = before - 1;
  part.first = min(s.offsets[part.t], n);
  part.begin = part.first + (warp - start(part.t)) * 32;
  part.end = min(part.begin + 32, min(s.offsets[part.t + 1], n));
  return part;
}

// Warps that are enough for any n keys of so many tables.
inline uint64_t SegmentThreads(uint64_t n, uint32_t tables) {
  return ((n + 31) / 32 + tables) * 32;
}

template <bool kValues>
__global__ void __launch_bounds__(kThreads, kLookupBlocks)
    LookupSegmentsKernel(const __grid_constant__ SegmentTables s, const LookupArgs a) {
  __shared__ WarpScratch scratches[kThreads / 32];
  const WarpPart part = PartOfWarp(s, a.n);
  const uint64_t i = part.begin + (threadIdx.x & 31);
  if (part.begin >= part.end) return;
  LookupArgs mine = a;
  mine.word_bytes = s.table[part.t].word_bytes;
  LookUp<kValues>(s.table[part.t].view, mine, scratches[threadIdx.x / 32], i, i < part.end);
}

// The arguments as they are for one table.
__device__ __forceinline__ UpsertArgs ArgsFor(const SegmentTable& table, const UpsertArgs& a,
                                              const WarpPart& part) {
  UpsertArgs mine = a;
  mine.epoch = table.epoch;
  mine.clock_offset = table.clock_offset;
  mine.word_bytes = table.word_bytes;
  mine.rule = table.rule;
  mine.admits_all = table.admits_all;
  mine.at_home = table.at_home;
  if (NeedsClock(table.rule)) mine.scores = nullptr;
  if (a.evicted_keys != nullptr) {
    mine.evicted_keys += part.first;
    if (a.evicted_values != nullptr) mine.evicted_values += part.first * a.pitch;
    if (a.evicted_scores != nullptr) mine.evicted_scores += part.first;
    mine.evicted_count += part.t;
  }
  return mine;
}

template <WriteMode kMode>
__global__ void __launch_bounds__(kThreads, kUpsertBlocks)
    UpsertSegmentsKernel(const __grid_constant__ SegmentTables s, const UpsertArgs a) {
  __shared__ WarpScratch scratches[kThreads / 32];
  const WarpPart part = PartOfWarp(s, a.n);
  if (part.begin < part.end) {
    const SegmentTable& table = s.table[part.t];
    const UpsertArgs mine = ArgsFor(table, a, part);
    const uint64_t i = part.begin + (threadIdx.x & 31);
    if (i == part.first && MayLowerScores(mine.rule, Inserts(kMode))) ++table.view.state->lowered;
    UpsertKeys<kMode, char>(table.view, mine, scratches[threadIdx.x / 32], Guard(table.view, mine),
                            i, i < part.end, true);
  }
  EndCall(a, s.count, [&](uint32_t t) { return s.table[t].view.state; });
}

// Erasing keys, and changing the holders of rows.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    ChangeSegmentsKernel(const __grid_constant__ SegmentTables s, const Write call) {
  const WarpPart part = PartOfWarp(s, call.n);
  const uint64_t i = part.begin + (threadIdx.x & 31);
  if (i >= part.end) return;
  const View& t = s.table[part.t].view;
  if (call.mode == WriteMode::kErase) {
    const uint8_t done = EraseKey(t, call.keys[i]);
    if (call.status != nullptr) call.status[i] = done;
  } else {
    const bool done = ChangeHolders(t, call, i);
    if (call.founds != nullptr) call.founds[i] = done;
  }
}

// The slots begin[t] ... begin[t] + (offset[t + 1] - offset[t]) - 1 of table t.
struct SegmentSlots {
  uint64_t begin[kSegmentTables];
  uint64_t offset[kSegmentTables + 1];  // the entries of what is written out
};

template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    ExportSegmentsKernel(const __grid_constant__ SegmentTables s,
                         const __grid_constant__ SegmentSlots slots, const ExportArgs a) {
  __shared__ WarpScratch scratches[kBlock / 32];
  const uint32_t lane = threadIdx.x & 31;
  const auto start = [&](uint32_t t) { return slots.offset[t] / 32 + t; };
  const uint64_t warp = ThreadIndex() / 32 + start(0);
  uint32_t t = 0;
  while (t + 1 < s.count && start(t + 1) <= warp) ++t;
  const uint64_t before = slots.offset[t], size = slots.offset[t + 1] - before;
  const uint64_t at = (warp - start(t)) * 32;
  if (at >= size) return;
  ExportArgs mine = a;
  mine.word_bytes = s.table[t].word_bytes;
  mine.begin = slots.begin[t];
  mine.end = slots.begin[t] + size;
  if (a.keys != nullptr) mine.keys += before;
  if (a.values != nullptr) mine.values += before * a.pitch;
  if (a.scores != nullptr) mine.scores += before;
  mine.count += t;
  ExportRow(s.table[t].view, mine, scratches[threadIdx.x / 32], mine.begin + at + lane,
            InRange{mine.predicate});
}

}  // namespace device
}  // namespace hkv
