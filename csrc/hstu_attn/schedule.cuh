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
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask.h"

namespace hstu {

struct RowBlock {
  int32_t seq, block;
};

constexpr int kNeighbours = 4;

// At the start of the workspace; `count` row blocks follow.
struct alignas(16) ScheduleHeader {
  int32_t count;
};

struct Schedule {
  const ScheduleHeader* list = nullptr;  // null: dense
  int32_t batch = 0, heads = 0;
  int32_t levels = 0;  // row blocks of the longest sequence
};

struct ScheduledWork {
  int32_t seq, head, block;  // block < 0: none
};

inline size_t schedule_bytes(int64_t total_q, int64_t batch, int block_m) {
  return sizeof(ScheduleHeader) + sizeof(RowBlock) * (total_q / block_m + batch);
}

__device__ __forceinline__ ScheduledWork scheduled_work(const Schedule& s, uint32_t index) {
  const uint32_t item = index / s.heads;
  const int32_t head = index - item * s.heads;
  if (s.list == nullptr) {
    const int32_t above = item / (s.batch * kNeighbours) * kNeighbours;  // levels already given
    const int32_t width = SeqMask::lesser(kNeighbours, s.levels - above);
    const int32_t rest = item - above * s.batch;
    return {rest / width, head, s.levels - 1 - above - rest % width};
  }
  if (static_cast<int32_t>(item) >= s.list->count) return {0, head, -1};
  const RowBlock b = reinterpret_cast<const RowBlock*>(s.list + 1)[item];
  return {b.seq, head, b.block};
}

// The structured mask of sequence `seq`.
__device__ __forceinline__ SeqMask seq_mask(const MaskParams& p, int seq, int k_len) {
  SeqMask m;
  m.k_len = k_len;
  m.left = p.window_left < 0 ? INT32_MAX : p.window_left;
  m.right = p.window_right < 0 ? INT32_MAX : p.window_right;
  m.contexts = kWithContext && p.num_contexts != nullptr ? p.num_contexts[seq] : 0;
  const int targets = kWithTarget && p.num_targets != nullptr ? p.num_targets[seq] : 0;
  m.hist_end = SeqMask::greater(k_len - targets, 0);
  m.group_size = p.target_group_size;
  return m;
}

// Decides between the two orders from sizes alone and, for a list, enqueues the sort of the row
// blocks of `block_m` rows into `workspace` (schedule_bytes()). Returns the number of CUDA blocks
// to launch.
int64_t make_schedule(const Problem& p, int block_m, void* workspace, cudaStream_t stream,
                      Schedule* schedule);

}  // namespace hstu
