// File: schedule.cuh
//
// Which block of query rows a CUDA block works on, the longest work first.
//
//   dense   block -> (row block, sequence, head), the last row blocks first. Under a causal mask
//           that is the order of falling work, and it costs no extra launch; sequences that are
//           shorter than the longest leave blocks without work.
//   listed  a first kernel sorts the row blocks that exist by the columns they see (a counting
//           sort in one CUDA block), and blocks take them from that list.
//
// In both, kNeighbours row blocks of one sequence stay together: they run at the same time and walk
// over the same keys, which then come from device memory once.
//
// Context rows see every key of the history, the rows after them few: where a sequence has no more
// than `context_rows` of them, they make a block of their own.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask.h"

namespace accel::hstu {

struct RowBlock {
  int32_t seq, block;
};

constexpr int kNeighbours = 4;
constexpr int kNoBlock = -1, kContextBlock = -2;  // in place of a row block

// At the start of the workspace; `count` row blocks follow.
struct alignas(16) ScheduleHeader {
  int32_t count;
};

struct Schedule {
  const ScheduleHeader* list = nullptr;  // null: dense
  int32_t batch = 0, heads = 0;
  int32_t levels = 0;        // row blocks of the longest sequence, and a context block
  int32_t context_rows = 0;  // 0: no context blocks
};

struct ScheduledWork {
  int32_t seq, head, block;
};

// A row block per block_m rows, one for the rest of each sequence, one for its context rows.
inline size_t ScheduleBytes(int64_t total_q, int64_t batch, int block_m) {
  return sizeof(ScheduleHeader) + sizeof(RowBlock) * (total_q / block_m + 2 * batch);
}

__device__ __forceinline__ ScheduledWork WorkAt(const Schedule& s, uint32_t index) {
  const uint32_t item = index / s.heads;
  const int32_t head = index - item * s.heads;
  if (s.list == nullptr) {
    const int32_t above = item / (s.batch * kNeighbours) * kNeighbours;  // levels already given
    const int32_t width = Min(kNeighbours, s.levels - above);
    const int32_t rest = item - above * s.batch;
    const int32_t level = s.levels - 1 - above - rest % width;
    const bool context = s.context_rows > 0 && level == s.levels - 1;
    return {rest / width, head, context ? kContextBlock : level};
  }
  if (static_cast<int32_t>(item) >= s.list->count) return {0, head, kNoBlock};
  const RowBlock b = reinterpret_cast<const RowBlock*>(s.list + 1)[item];
  return {b.seq, head, b.block};
}

// Decides between the two orders from sizes alone and, for a list, enqueues the sort of the row
// blocks of `block_m` rows into `workspace` (ScheduleBytes()). Returns the number of CUDA blocks
// to launch.
int64_t MakeSchedule(const Problem& p, int block_m, int context_rows, void* workspace,
                     cudaStream_t stream, Schedule* schedule);

}  // namespace accel::hstu
