// File: bwd.h
//
// What the translation units of the backward share: the instances (bwd_inst.cu.tpl), the layout of
// the scratch memory and the steps before a kernel's launch (bwd.cu).
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/split.h"

namespace accel::hstu {

// One instance; Traits: BwdTraits. Defined in bwd_launch.cuh.
template <class Traits>
int RunBwd(const BwdParams& p, void* workspace, cudaStream_t stream);

struct BwdWorkspace {
  Split split;
  size_t schedule = 0;    // ScheduleHeader, then a RowBlock per block of keys
  size_t semaphores = 0;  // int32 ticket, then one int32 per (block of queries, head)
  size_t arrived = 0;     // of the parts of split blocks
  size_t dq = 0;          // fp32 accumulators, (block of queries, head, kBlockM * head_dim)
  size_t sums = 0;        // of the parts
  size_t bytes = 0;
};

// For the current device.
BwdWorkspace BwdWorkspaceOf(const BwdParams& p);

inline int64_t BwdQueryBlocks(const BwdParams& p, int block_m) {
  return p.total_q / block_m + p.batch;
}

// Sorts the blocks of keys, the longest work first, and zeroes the accumulators, the semaphores and
// the counters of parts.
cudaError_t BwdPrepare(const BwdParams& p, int block_m, int block_n, void* workspace,
                       cudaStream_t stream);

// Sorts the sequences, the longest first. Null: they are of one length.
cudaError_t BwdPrepareWhole(const BwdParams& p, void* workspace, cudaStream_t stream,
                            const int32_t** order);

// Zeroes dRab where it is wanted.
cudaError_t BwdZeroDrab(const BwdParams& p, cudaStream_t stream);

}  // namespace accel::hstu
