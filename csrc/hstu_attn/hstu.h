// File: hstu.h
//
// The torch-free interface of the HSTU attention kernels: plain structs, raw device pointers, a
// stream. Per sequence b and head h, with absolute row i = r + (k_len - q_len):
//
//   S[i,j] = alpha * (q_i . k_j + rab[b,h,i,j])          P[i,j] = mask(i,j) * SiLU(S[i,j]) / N
//   o_i    = sum_j P[i,j] v_j
//
// Nothing here allocates, synchronises or throws. Every function returns a cudaError_t as int.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "csrc/hstu_attn/mask.h"

namespace accel::hstu {

enum class DType : int32_t { kBf16 = 0, kFp16 = 1 };

// A (rows, heads, head_dim) tensor whose last stride is 1. Strides count elements. The kernels move
// 16 bytes at a time: `data` is 16-byte aligned and the strides are multiples of 8 (so for PagedKv;
// Rab may lie anywhere).
struct Rows {
  void* data = nullptr;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};

// History keys and values in pages. The columns j < k_len - num_targets come from the pages; the
// num_targets last columns are the last num_targets rows of this sequence in k and v, which are
// then laid out by cu_seqlens_q.
struct PagedKv {
  const void* data = nullptr;  // (pages, 2, page_size, heads_k, head_dim): keys, then values
  int64_t page_stride = 0, kv_stride = 0, slot_stride = 0, head_stride = 0;  // elements
  int32_t page_size = 0;
  const int32_t* page_offsets = nullptr;  // (batch + 1)
  const int32_t* page_ids = nullptr;      // (page_offsets[batch])
};

// Relative attention bias, (batch, heads or 1, max_seqlen_k, max_seqlen_k); head_stride is 0 for
// one head; the last stride is 1. Indexed by absolute row and column.
struct Rab {
  void* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
};

struct Problem {
  DType dtype = DType::kBf16;
  int32_t head_dim = 0;  // 32, 64, 128 or 256
  int32_t batch = 0, heads = 0, heads_k = 0;
  int32_t total_q = 0, total_k = 0;            // rows of q and k
  int32_t max_seqlen_q = 0, max_seqlen_k = 0;  // bounds on the lengths
  const int32_t* cu_seqlens_q = nullptr;       // (batch + 1)
  const int32_t* cu_seqlens_k = nullptr;       // (batch + 1)
  float alpha = 1.0f;
  float inv_n = 1.0f;   // 1 / scaling_seqlen
  int32_t smem_kb = 0;  // > 0: kernels as for a GPU whose multiprocessors have this much
  MaskParams mask;
  Rows q, k, v;
  Rab rab;  // data == null: none
};

struct FwdParams : Problem {
  Rows o;      // written whole; rows behind the last sequence become zeros
  PagedKv kv;  // data == null: k and v hold all columns
};

struct BwdParams : Problem {
  Rows d_o;         // gradient of o
  Rows dq, dk, dv;  // written whole, as o
  Rab drab;         // data == null: not wanted; else rab's dtype, written whole, head_stride
                    // may not be 0: heads are summed by the caller when rab has one head
  bool deterministic = false;  // bit-equal results from run to run
};

// Bytes of device scratch that Fwd()/Bwd() need for these parameters. Reads sizes only (no device
// pointer is followed), so that a caller can allocate without a synchronisation.
size_t FwdWorkspaceBytes(const FwdParams& p);
size_t BwdWorkspaceBytes(const BwdParams& p);

// Launch on the current device. `workspace` may hold anything; it is free again when the stream
// has passed the call. cudaErrorNotSupported: this build has no such instance.
int Fwd(const FwdParams& p, void* workspace, cudaStream_t stream);
int Bwd(const BwdParams& p, void* workspace, cudaStream_t stream);

}  // namespace accel::hstu
