// File: bwd.h
//
// What the translation units of the backward share: the instances (bwd_inst.cu.tpl) and the steps
// before a kernel's launch (bwd.cu).
#pragma once

#include "csrc/hstu_attn/hstu.h"

namespace hstu {

// One instance; T: __nv_bfloat16 or __half. kHasDrab needs kHasRab. Defined in bwd_launch.cuh.
template <int kHeadDim, class T, bool kHasRab, bool kHasDrab>
int run_bwd(const BwdParams& p, void* workspace, cudaStream_t stream);

// Sorts the blocks of keys, the longest work first, and zeroes the accumulators and the semaphores.
cudaError_t bwd_prepare(const BwdParams& p, int block_m, int block_n, void* workspace,
                        cudaStream_t stream);

// Sorts the sequences, the longest first. Null: they are of one length.
cudaError_t bwd_prepare_whole(const BwdParams& p, void* workspace, cudaStream_t stream,
                              const int32_t** order);

// Zeroes dRab where it is wanted.
cudaError_t bwd_zero_drab(const BwdParams& p, cudaStream_t stream);

}  // namespace hstu
