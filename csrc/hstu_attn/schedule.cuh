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
inline size_t schedule_bytes(int64_t total_q, int64_t batch, int block_m) {
  return sizeof(ScheduleHeader) + sizeof(RowBlock) * (total_q / block_m + 2 * batch);
}

__device__ __forceinline__ ScheduledWork scheduled_work(const Schedule& s, uint32_t index) {
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

// The structured mask of sequence `seq`.
__device__ __forceinline__ SeqMask seq_mask(const MaskParams& p, int seq, int k_len) {
  SeqMask m;
  m.k_len = k_len;
  m.left = p.window_left < 0 ? INT32_MAX : p.window_left;
  m.right = p.window_right < 0 ? INT32_MAX : p.window_right;
  m.contexts = kWithContext && p.num_contexts != nullptr ? p.num_contexts[seq] : 0;
  const int targets = kWithTarget && p.num_targets != nullptr ? p.num_targets[seq] : 0;
  m.hist_end = Max(k_len - targets, 0);
  m.group_size = p.target_group_size;
  return m;
}

// Columns that absolute rows first..last see, about.
__device__ __forceinline__ int columns_seen(const MaskParams& p, const SeqMask& m, int first,
                                            int last) {
  if (kWithArbitrary && p.func != nullptr) return m.k_len;
  const auto of = [&](int i) {
    const RowSpan s = m.row(i);
    return Max(s.hist - s.begin, 0) + Max(s.end - s.group, 0);
  };
  return Max(of(first), of(last));
}

// The rows that see any of the columns [n0, n1), about; context rows do not count.
struct RowRange {
  int32_t begin, end;
};
__device__ __forceinline__ RowRange rows_that_see(const MaskParams& p, const SeqMask& m, int q_len,
                                                  int n0, int n1) {
  RowRange r = {0, q_len};
  if (kWithArbitrary && p.func != nullptr) return r;
  const int off = m.k_len - q_len;
  if (m.right < m.k_len) r.begin = Max(r.begin, n0 - m.right - off);
  if (m.left < m.k_len) r.end = Min(r.end, n1 + m.left - off);
  r.end = Max(r.begin, r.end);
  return r;
}

// The query rows that form a context block, the first of the sequence; 0: there is none.
__device__ __forceinline__ int context_block_rows(const SeqMask& m, int q_len, int at_most) {
  const int rows = Min(Min(m.contexts, m.hist_end) - (m.k_len - q_len), q_len);
  return rows <= at_most ? Max(rows, 0) : 0;
}

// Decides between the two orders from sizes alone and, for a list, enqueues the sort of the row
// blocks of `block_m` rows into `workspace` (schedule_bytes()). Returns the number of CUDA blocks
// to launch.
int64_t make_schedule(const Problem& p, int block_m, int context_rows, void* workspace,
                      cudaStream_t stream, Schedule* schedule);

}  // namespace accel::hstu
