// File: bwd.cu
//
// The entry of the backward: the instances by head dim, dtype and bias, the scratch memory, and the
// kernel that prepares it.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "csrc/common/device.h"
#include "csrc/hstu_attn/bwd.h"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/split.cuh"

namespace accel::hstu {

constexpr int kPrepareThreads = 1024;
constexpr int kPrepareBuckets = 8192;
constexpr int kPrepareZeroBlocks = 1024;

// The order in which blocks of keys run: group by group of sequences, so that the dQ sums that the
// running blocks add to stay in the L2 cache, and in a group the longest work first.
struct KeyOrder {
  int32_t group_rows;         // rows of Q in a group
  int32_t levels;             // buckets of a group
  int32_t blocks_per_bucket;  // query blocks of work
};

KeyOrder key_order(const BwdParams& p, int block_m, int block_n) {
  constexpr int64_t kGroupBytes = 32 << 20;
  const int64_t row_bytes = static_cast<int64_t>(p.heads) * p.head_dim * sizeof(float);
  int64_t rows = kGroupBytes / row_bytes + 1;
  // Ordered sums need a bucket for every block of keys of a sequence.
  const int64_t least = p.deterministic ? p.max_seqlen_k / block_n + 1 : 64;
  const int64_t groups = kPrepareBuckets / (least < kPrepareBuckets ? least : kPrepareBuckets);
  if (rows < p.total_q / groups + 1) rows = p.total_q / groups + 1;
  KeyOrder o;
  o.group_rows = static_cast<int32_t>(rows);
  o.levels = static_cast<int32_t>(kPrepareBuckets / (p.total_q / rows + 1));
  o.blocks_per_bucket = p.max_seqlen_q / block_m / o.levels + 1;
  return o;
}

__device__ __forceinline__ int key_block_bucket(const BwdParams& p, const KeyOrder& o,
                                                const SeqMask& m, int q_begin, int q_len, int block,
                                                int block_m, int block_n) {
  const int group_end = (q_begin / o.group_rows + 1) * o.levels - 1;
  // Ordered sums: a query block's dQ takes its key blocks from the last to the first.
  if (p.deterministic) return group_end - block;
  const RowRange rows = rows_that_see(p.mask, m, q_len, block * block_n, (block + 1) * block_n);
  const int blocks = (rows.end - rows.begin) / block_m + (m.contexts > 0);
  return group_end - min(blocks / o.blocks_per_bucket, o.levels - 1);
}

// Block 0 sorts the blocks of keys that exist; the others clear `words` 16-byte words at `zero`.
__global__ __launch_bounds__(kPrepareThreads) void bwd_prepare_kernel(
    const __grid_constant__ BwdParams p, int block_m, int block_n, KeyOrder order,
    ScheduleHeader* schedule, uint4* zero, int64_t words) {
  if (blockIdx.x > 0) {
    const int64_t step = static_cast<int64_t>(gridDim.x - 1) * blockDim.x;
    for (int64_t i = (blockIdx.x - 1) * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < words;
         i += step) {
      zero[i] = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  __shared__ int32_t start[kPrepareBuckets];
  __shared__ int32_t warp_sum[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  RowBlock* const items = reinterpret_cast<RowBlock*>(schedule + 1);
  for (int i = threadIdx.x; i < kPrepareBuckets; i += kPrepareThreads) start[i] = 0;
  __syncthreads();
  // Lanes that share a sequence: as many as leave every sequence a turn at once, if possible.
  int lanes = 32;
  while (lanes > 1 && kPrepareThreads / lanes < p.batch) lanes /= 2;
  for (int pass = 0; pass < 2; ++pass) {
    for (int seq = threadIdx.x / lanes; seq < p.batch; seq += kPrepareThreads / lanes) {
      const int q_begin = p.cu_seqlens_q[seq], q_len = p.cu_seqlens_q[seq + 1] - q_begin;
      const int k_len = p.cu_seqlens_k[seq + 1] - p.cu_seqlens_k[seq];
      const SeqMask m = seq_mask(p.mask, seq, k_len);
      for (int block = threadIdx.x % lanes; block * block_n < k_len; block += lanes) {
        const int bucket = key_block_bucket(p, order, m, q_begin, q_len, block, block_m, block_n);
        const int place = atomicAdd(&start[bucket], 1);
        if (pass == 1) items[place] = {seq, block};
      }
    }
    __syncthreads();
    if (pass == 1) break;
    // Exclusive prefix sum over the buckets, kPrepareBuckets / kPrepareThreads a thread.
    constexpr int kEach = kPrepareBuckets / kPrepareThreads;
    int mine = 0;
    for (int i = 0; i < kEach; ++i) mine += start[threadIdx.x * kEach + i];
    int sum = mine;
    for (int d = 1; d < 32; d *= 2) {
      const int below = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) sum += below;
    }
    if (lane == 31) warp_sum[warp] = sum;
    __syncthreads();
    int before = sum - mine;
    for (int w = 0; w < warp; ++w) before += warp_sum[w];
    for (int i = 0; i < kEach; ++i) {
      const int count = start[threadIdx.x * kEach + i];
      start[threadIdx.x * kEach + i] = before;
      before += count;
    }
    if (threadIdx.x == kPrepareThreads - 1) schedule->count = before;
    __syncthreads();
  }
}

// Zeroes rows of dRab, (batch, heads, max_seqlen_k) of them, max_seqlen_k values each.
__global__ void bwd_zero_drab_kernel(Rab drab, int heads, int n) {
  const int row = blockIdx.x, head = blockIdx.y % heads, seq = blockIdx.y / heads;
  uint16_t* at = static_cast<uint16_t*>(drab.data) + seq * drab.batch_stride +
                 head * drab.head_stride + row * drab.row_stride;
  const bool whole = reinterpret_cast<uintptr_t>(at) % 16 == 0;
  const int chunks = whole ? n / 8 : 0;
  for (int i = threadIdx.x; i < chunks; i += blockDim.x) {
    reinterpret_cast<uint4*>(at)[i] = make_uint4(0, 0, 0, 0);
  }
  for (int i = chunks * 8 + threadIdx.x; i < n; i += blockDim.x) at[i] = 0;
}

// Sorts the sequences by length in kBuckets steps, the longest first.
__global__ __launch_bounds__(kPrepareThreads) void bwd_sort_kernel(const int32_t* cu_seqlens,
                                                                   int batch, int32_t* order) {
  constexpr int kBuckets = 32, kStep = kBwdWholeKeys / kBuckets;
  __shared__ int32_t start[kBuckets];
  const auto bucket = [&](int seq) {
    return kBuckets - 1 - min((cu_seqlens[seq + 1] - cu_seqlens[seq]) / kStep, kBuckets - 1);
  };
  if (threadIdx.x < kBuckets) start[threadIdx.x] = 0;
  __syncthreads();
  for (int seq = threadIdx.x; seq < batch; seq += kPrepareThreads) {
    atomicAdd(&start[bucket(seq)], 1);
  }
  __syncthreads();
  if (threadIdx.x < kBuckets) {
    const int lane = threadIdx.x, mine = start[lane];
    int sum = mine;
    for (int d = 1; d < kBuckets; d *= 2) {
      const int below = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) sum += below;
    }
    start[lane] = sum - mine;
  }
  __syncthreads();
  for (int seq = threadIdx.x; seq < batch; seq += kPrepareThreads) {
    order[atomicAdd(&start[bucket(seq)], 1)] = seq;
  }
}

cudaError_t bwd_prepare(const BwdParams& p, int block_m, int block_n, void* workspace,
                        cudaStream_t stream) {
  if (p.deterministic && p.max_seqlen_k / block_n >= kPrepareBuckets) return cudaErrorInvalidValue;
  const BwdWorkspace at = bwd_workspace(p);
  unsigned char* const base = static_cast<unsigned char*>(workspace);
  const int64_t values =
      bwd_query_blocks(p, block_m) * block_m * p.heads * static_cast<int64_t>(p.head_dim);
  const int64_t bytes =
      static_cast<int64_t>(at.dq - at.semaphores) + values * static_cast<int64_t>(sizeof(float));
  bwd_prepare_kernel<<<1 + kPrepareZeroBlocks, kPrepareThreads, 0, stream>>>(
      p, block_m, block_n, key_order(p, block_m, block_n),
      reinterpret_cast<ScheduleHeader*>(base + at.schedule),
      reinterpret_cast<uint4*>(base + at.semaphores), bytes / 16);
  return cudaGetLastError();
}

cudaError_t bwd_prepare_whole(const BwdParams& p, void* workspace, cudaStream_t stream,
                              const int32_t** order) {
  *order = nullptr;
  if (p.total_k == static_cast<int64_t>(p.batch) * p.max_seqlen_k) return cudaSuccess;
  int32_t* const to = reinterpret_cast<int32_t*>(static_cast<unsigned char*>(workspace) +
                                                 bwd_workspace(p).schedule);
  bwd_sort_kernel<<<1, kPrepareThreads, 0, stream>>>(p.cu_seqlens_k, p.batch, to);
  *order = to;
  return cudaGetLastError();
}

cudaError_t bwd_zero_drab(const BwdParams& p, cudaStream_t stream) {
  if (p.drab.data == nullptr || p.max_seqlen_k == 0) return cudaSuccess;
  bwd_zero_drab_kernel<<<dim3(p.max_seqlen_k, p.batch * p.heads), 128, 0, stream>>>(p.drab, p.heads,
                                                                                    p.max_seqlen_k);
  return cudaGetLastError();
}

BwdWorkspace bwd_workspace(const BwdParams& p) {
  const int64_t blocks = bwd_key_blocks(p) * p.heads_k;
  BwdWorkspace w;
  if (p.heads > 0) w.split = plan_split(bwd_split_work(p, ProcessorCount()));
  w.semaphores = AlignScratch(16 + 8 * (p.total_k / kBwdMinBlockN + static_cast<int64_t>(p.batch)));
  w.arrived = w.semaphores + AlignScratch(4 * (1 + bwd_query_blocks(p, kBwdMinBlockM) * p.heads));
  w.dq = w.arrived + split_counter_bytes(w.split, blocks);
  w.sums = w.dq + sizeof(float) * (p.total_q + static_cast<int64_t>(p.batch) * kBwdMaxBlockM) *
                      p.heads * p.head_dim;
  w.bytes = w.sums + split_bytes(w.split, blocks, 2 * bwd_keys(p.head_dim) * p.head_dim);
  return w;
}

size_t bwd_workspace_bytes(const BwdParams& p) { return bwd_workspace(p).bytes; }

// The instances live in their own translation units (bwd_inst.cu.tpl).

// The instance of a head dim and a dtype, by bias.
template <int kHeadDim, class T>
int run_bwd_bias(const BwdParams& p, void* workspace, cudaStream_t stream) {
  if (p.rab.data == nullptr) return run_bwd<kHeadDim, T, false, false>(p, workspace, stream);
#ifndef HSTU_DISABLE_RAB
  if (p.drab.data == nullptr) return run_bwd<kHeadDim, T, true, false>(p, workspace, stream);
#ifndef HSTU_DISABLE_DRAB
  return run_bwd<kHeadDim, T, true, true>(p, workspace, stream);
#endif
#endif
  return cudaErrorNotSupported;
}

template <int kHeadDim>
int run_bwd_dtype(const BwdParams& p, void* workspace, cudaStream_t stream) {
  switch (p.dtype) {
#ifndef HSTU_DISABLE_BF16
    case DType::kBf16:
      return run_bwd_bias<kHeadDim, __nv_bfloat16>(p, workspace, stream);
#endif
#ifndef HSTU_DISABLE_FP16
    case DType::kFp16:
      return run_bwd_bias<kHeadDim, __half>(p, workspace, stream);
#endif
    default:
      return cudaErrorNotSupported;
  }
}

// Whether this build serves the mask.
bool bwd_serves(const BwdParams& p) {
  const MaskParams& m = p.mask;
  if (m.func != nullptr) return kWithArbitrary;
  if (m.num_contexts != nullptr && !kWithContext) return false;
  if (m.num_targets != nullptr && !kWithTarget) return false;
  const bool causal = m.window_left < 0 && m.window_right == 0;
  const bool local = !causal && (m.window_left >= 0 || m.window_right >= 0);
  return (!causal || kWithCausal) && (!local || kWithLocal);
}

int bwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
#ifdef HSTU_DISABLE_BACKWARD
  return cudaErrorNotSupported;
#else
#ifdef HSTU_DISABLE_DETERMINISTIC
  if (p.deterministic) return cudaErrorNotSupported;
#endif
  if (!bwd_serves(p)) return cudaErrorNotSupported;
  if (p.batch == 0 || p.heads == 0) return cudaSuccess;
  switch (p.head_dim) {
#ifndef HSTU_DISABLE_HDIM32
    case 32:
      return run_bwd_dtype<32>(p, workspace, stream);
#endif
#ifndef HSTU_DISABLE_HDIM64
    case 64:
      return run_bwd_dtype<64>(p, workspace, stream);
#endif
#ifndef HSTU_DISABLE_HDIM128
    case 128:
      return run_bwd_dtype<128>(p, workspace, stream);
#endif
#ifndef HSTU_DISABLE_HDIM256
    case 256:
      return run_bwd_dtype<256>(p, workspace, stream);
#endif
    default:
      return cudaErrorNotSupported;
  }
#endif
}

}  // namespace accel::hstu
