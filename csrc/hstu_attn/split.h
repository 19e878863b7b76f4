// File: split.h
//
// Split-KV: where there are so few blocks of rows that the longest would outlast all others,
// several CUDA blocks share the keys of each; in the backward, the queries of a block of keys. Here
// is what the host decides, from sizes alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/common/portable.h"
#include "csrc/common/scratch.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask_bits.cuh"

namespace accel::hstu {

struct Split {
  int32_t most = 1;    // parts of a block; 1: none is split
  int32_t length = 0;  // that a part should have

  // The parts of a block of that length.
  ACCEL_HD int32_t parts(int32_t of) const {
    if (most == 1 || of <= length) return 1;
    return Min(CeilDiv(of, length), most);
  }
};

// Blocks of rows, whose length is the columns that they see; in the backward blocks of keys, whose
// length is the rows that see them.
struct SplitWork {
  int64_t blocks = 0;
  int64_t longest = 0, mean = 0;  // length
  int64_t room = 0;               // blocks that the GPU runs at a time
  int64_t join = 0;               // the length that takes as long as to leave and add sums
  float rounds = 1.0f;            // of parts, to level out: more cost more sums
};

inline Split PlanSplit(const SplitWork& w) {
  constexpr int kMost = 8;
  constexpr int64_t kLeast = 256;  // length of a part
  Split split;
  if (w.blocks * (w.mean + w.join) >= w.longest * w.room) return split;
  const int64_t length = static_cast<int64_t>(w.blocks * w.mean / (w.rounds * w.room));
  split.length = static_cast<int32_t>(length < kLeast ? kLeast : length);
  split.most = kMost;
  split.most = split.parts(static_cast<int32_t>(w.longest));
  return split;
}

constexpr int kFwdRows = 128;  // of a block of rows, in every instance of the forward
constexpr int BwdKeys(int head_dim) { return head_dim == 32 || head_dim == 256 ? 64 : 128; }

inline int64_t FwdRowBlocks(const Problem& p) { return p.total_q / kFwdRows + p.batch; }
inline int64_t BwdKeyBlocks(const Problem& p) { return p.total_k / BwdKeys(p.head_dim) + p.batch; }

// What a GPU of so many multiprocessors has to do.
inline SplitWork FwdSplitWork(const Problem& p, int processors) {
  const int64_t dense = CeilDiv(p.max_seqlen_q, kFwdRows) * int64_t{p.batch};
  const int64_t present = FwdRowBlocks(p);
  SplitWork w;
  w.blocks = (dense < present ? dense : present) * p.heads;
  w.room = int64_t{processors} * (p.head_dim == 256 ? 1 : 2);  // eight warps each
  w.join = 1200;
  w.rounds = 2.0f;
  const SeenLengths seen = LengthsSeen(p.mask, kFwdRows, p.max_seqlen_k);
  w.longest = seen.longest;
  w.mean = seen.mean;
  return w;
}

inline SplitWork BwdSplitWork(const Problem& p, int processors) {
  const int keys = BwdKeys(p.head_dim);
  const int64_t dense = CeilDiv(p.max_seqlen_k, keys) * int64_t{p.batch};
  const int64_t present = BwdKeyBlocks(p);
  const int group = p.heads / p.heads_k;
  SplitWork w;
  w.blocks = (dense < present ? dense : present) * p.heads_k;
  w.room = int64_t{processors} * (p.head_dim == 32 ? 4 : 1);
  w.join = 700;
  w.rounds = 1.4f;
  const SeenLengths seen = LengthsSeen(p.mask, keys, p.max_seqlen_q);
  w.longest = seen.longest * group;
  w.mean = seen.mean * group;
  return w;
}

// Bytes of scratch memory for the counters of ended parts, one a block.
inline size_t SplitCounterBytes(const Split& split, int64_t blocks) {
  return split.most == 1 ? 0 : AlignScratch(blocks * sizeof(uint32_t));
}

// Bytes of scratch memory for the sums of all parts, `floats` per block.
inline size_t SplitBytes(const Split& split, int64_t blocks, int64_t floats) {
  return split.most == 1 ? 0 : blocks * split.most * floats * sizeof(float);
}

}  // namespace accel::hstu
