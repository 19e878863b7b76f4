// File: bwd.cu
//
// Chooses the backward instance for a problem, lays out its scratch memory, and prepares it.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "csrc/common/device.h"
#include "csrc/common/warp.cuh"
#include "csrc/hstu_attn/bwd.h"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/mask_bits.cuh"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/split.cuh"

namespace accel::hstu {

template <class Element, int kHeadDim>
int BwdOfRab(const BwdParams& p, void* workspace, cudaStream_t stream) {
  if (p.rab.data == nullptr) {
    return RunBwd<BwdTraits<Element, kHeadDim, false, false>>(p, workspace, stream);
  }
  if constexpr (kWithRab) {
    if (p.drab.data == nullptr) {
      return RunBwd<BwdTraits<Element, kHeadDim, true, false>>(p, workspace, stream);
    }
    if constexpr (kWithDrab) {
      return RunBwd<BwdTraits<Element, kHeadDim, true, true>>(p, workspace, stream);
    }
  }
  return cudaErrorNotSupported;
}

template <class Element>
int BwdOfHeadDim(const BwdParams& p, void* workspace, cudaStream_t stream) {
  switch (p.head_dim) {
    case 32:
      if constexpr (kWithHdim32) return BwdOfRab<Element, 32>(p, workspace, stream);
      break;
    case 64:
      if constexpr (kWithHdim64) return BwdOfRab<Element, 64>(p, workspace, stream);
      break;
    case 128:
      if constexpr (kWithHdim128) return BwdOfRab<Element, 128>(p, workspace, stream);
      break;
    case 256:
      if constexpr (kWithHdim256) return BwdOfRab<Element, 256>(p, workspace, stream);
      break;
  }
  return cudaErrorNotSupported;
}

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

KeyOrder MakeKeyOrder(const BwdParams& p, int block_m, int block_n) {
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

__device__ __forceinline__ int KeyBlockBucket(const BwdParams& p, const KeyOrder& o,
                                              const SeqMask& m, int q_begin, int q_len, int block,
                                              int block_m, int block_n) {
  const int group_end = (q_begin / o.group_rows + 1) * o.levels - 1;
  // Ordered sums: a query block's dQ takes its key blocks from the last to the first.
  if (p.deterministic) return group_end - block;
  const RowRange rows = RowsThatSee(p.mask, m, q_len, block * block_n, (block + 1) * block_n);
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
  __shared__ int32_t warp_sum[kPrepareThreads / kWarpSize];
  RowBlock* const items = reinterpret_cast<RowBlock*>(schedule + 1);
  for (int i = threadIdx.x; i < kPrepareBuckets; i += kPrepareThreads) start[i] = 0;
  __syncthreads();
  // Lanes that share a sequence: as many as leave every sequence a turn at once, if possible.
  int lanes = kWarpSize;
  while (lanes > 1 && kPrepareThreads / lanes < p.batch) lanes /= 2;
  for (int pass = 0; pass < 2; ++pass) {
    for (int seq = threadIdx.x / lanes; seq < p.batch; seq += kPrepareThreads / lanes) {
      const int q_begin = p.cu_seqlens_q[seq], q_len = p.cu_seqlens_q[seq + 1] - q_begin;
      const int k_len = p.cu_seqlens_k[seq + 1] - p.cu_seqlens_k[seq];
      const SeqMask m = SequenceMask(p.mask, seq, k_len);
      for (int block = threadIdx.x % lanes; block * block_n < k_len; block += lanes) {
        const int bucket = KeyBlockBucket(p, order, m, q_begin, q_len, block, block_m, block_n);
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
    int before = BlockExclusiveSum(mine, warp_sum);
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
  constexpr int kBuckets = kWarpSize, kStep = kBwdWholeKeys / kBuckets;
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
    const int mine = start[threadIdx.x];
    start[threadIdx.x] = WarpInclusiveSum(mine) - mine;
  }
  __syncthreads();
  for (int seq = threadIdx.x; seq < batch; seq += kPrepareThreads) {
    order[atomicAdd(&start[bucket(seq)], 1)] = seq;
  }
}

cudaError_t BwdPrepare(const BwdParams& p, int block_m, int block_n, void* workspace,
                       cudaStream_t stream) {
  if (p.deterministic && p.max_seqlen_k / block_n >= kPrepareBuckets) return cudaErrorInvalidValue;
  const BwdWorkspace at = BwdWorkspaceOf(p);
  unsigned char* const base = static_cast<unsigned char*>(workspace);
  const int64_t values =
      BwdQueryBlocks(p, block_m) * block_m * p.heads * static_cast<int64_t>(p.head_dim);
  const int64_t bytes =
      static_cast<int64_t>(at.dq - at.semaphores) + values * static_cast<int64_t>(sizeof(float));
  bwd_prepare_kernel<<<1 + kPrepareZeroBlocks, kPrepareThreads, 0, stream>>>(
      p, block_m, block_n, MakeKeyOrder(p, block_m, block_n),
      reinterpret_cast<ScheduleHeader*>(base + at.schedule),
      reinterpret_cast<uint4*>(base + at.semaphores), bytes / 16);
  return cudaGetLastError();
}

cudaError_t BwdPrepareWhole(const BwdParams& p, void* workspace, cudaStream_t stream,
                            const int32_t** order) {
  *order = nullptr;
  if (p.total_k == static_cast<int64_t>(p.batch) * p.max_seqlen_k) return cudaSuccess;
  int32_t* const to = reinterpret_cast<int32_t*>(static_cast<unsigned char*>(workspace) +
                                                 BwdWorkspaceOf(p).schedule);
  bwd_sort_kernel<<<1, kPrepareThreads, 0, stream>>>(p.cu_seqlens_k, p.batch, to);
  *order = to;
  return cudaGetLastError();
}

cudaError_t BwdZeroDrab(const BwdParams& p, cudaStream_t stream) {
  if (p.drab.data == nullptr || p.max_seqlen_k == 0) return cudaSuccess;
  bwd_zero_drab_kernel<<<dim3(p.max_seqlen_k, p.batch * p.heads), 128, 0, stream>>>(p.drab, p.heads,
                                                                                    p.max_seqlen_k);
  return cudaGetLastError();
}

BwdWorkspace BwdWorkspaceOf(const BwdParams& p) {
  const int64_t blocks = BwdKeyBlocks(p) * p.heads_k;
  BwdWorkspace w;
  if (p.heads > 0) w.split = PlanSplit(BwdSplitWork(p, ProcessorCount()));
  w.semaphores = AlignScratch(16 + 8 * (p.total_k / kBwdMinBlockN + static_cast<int64_t>(p.batch)));
  w.arrived = w.semaphores + AlignScratch(4 * (1 + BwdQueryBlocks(p, kBwdMinBlockM) * p.heads));
  w.dq = w.arrived + SplitCounterBytes(w.split, blocks);
  w.sums = w.dq + sizeof(float) * (p.total_q + static_cast<int64_t>(p.batch) * kBwdMaxBlockM) *
                      p.heads * p.head_dim;
  w.bytes = w.sums + SplitBytes(w.split, blocks, 2 * BwdKeys(p.head_dim) * p.head_dim);
  return w;
}

size_t BwdWorkspaceBytes(const BwdParams& p) { return BwdWorkspaceOf(p).bytes; }

int Bwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
  if constexpr (kWithBackward) {
    if (!InBuild(p.mask) || (p.deterministic && !kWithDeterministic)) return cudaErrorNotSupported;
    if (p.batch == 0 || p.heads == 0) return cudaSuccess;
    switch (p.dtype) {
      case DType::kBf16:
        if constexpr (kWithBf16) return BwdOfHeadDim<__nv_bfloat16>(p, workspace, stream);
        break;
      case DType::kFp16:
        if constexpr (kWithFp16) return BwdOfHeadDim<__half>(p, workspace, stream);
        break;
    }
  }
  return cudaErrorNotSupported;
}

}  // namespace accel::hstu
