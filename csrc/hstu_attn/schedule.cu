// File: schedule.cu
//
// The sort behind the listed order of schedule.cuh: a counting sort of all row blocks by the
// columns that they see, in one CUDA block.
#include "csrc/common/warp.cuh"
#include "csrc/hstu_attn/mask_bits.cuh"
#include "csrc/hstu_attn/schedule.cuh"

namespace accel::hstu {

constexpr int kScheduleThreads = 1024;
constexpr int kScheduleBuckets = 1024;

// Launch with one block of kScheduleThreads. `bucket_columns`: columns per bucket of the sort;
// `capacity`: row blocks that fit behind `out`, which lengths that add up never exceed.
__global__ void build_schedule(MaskParams mask, const int32_t* __restrict__ cu_seqlens_q,
                               const int32_t* __restrict__ cu_seqlens_k, int batch, int block_m,
                               int context_rows, int bucket_columns, int capacity,
                               ScheduleHeader* out) {
  __shared__ int32_t start[kScheduleBuckets];  // bucket 0 holds the most columns
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  RowBlock* items = reinterpret_cast<RowBlock*>(out + 1);
  start[threadIdx.x] = 0;
  __syncthreads();
  for (int pass = 0; pass < 2; ++pass) {
    for (int b = warp; b < batch; b += kScheduleThreads / kWarpSize) {
      const int q_len = cu_seqlens_q[b + 1] - cu_seqlens_q[b];
      const int k_len = cu_seqlens_k[b + 1] - cu_seqlens_k[b];
      SeqMask m = SequenceMask(mask, b, k_len);
      if (context_rows > 0 && ContextBlockRows(m, q_len, context_rows) > 0) {
        m.contexts = 0;  // for the row blocks
        // Its tiles take less than half of the time of those of a row block.
        const int bucket =
            kScheduleBuckets - 1 - Min(m.hist_end / 2 / bucket_columns, kScheduleBuckets - 1);
        const int place = lane == 0 ? atomicAdd(&start[bucket], 1) : capacity;
        if (pass == 1 && place < capacity) items[place] = {b, kContextBlock};
      }
      const int blocks = (q_len + block_m - 1) / block_m;
      for (int above = lane * kNeighbours; above < blocks; above += kWarpSize * kNeighbours) {
        // The last kNeighbours blocks but `above`, sorted as one by the first of them.
        const int block = blocks - 1 - above;
        const int first = block * block_m + k_len - q_len;
        const int last = Min(first + block_m, k_len) - 1;
        const int columns = ColumnsSeen(mask, m, first, last);
        const int bucket =
            kScheduleBuckets - 1 - Min(columns / bucket_columns, kScheduleBuckets - 1);
        const int width = Min(kNeighbours, block + 1);
        const int place = atomicAdd(&start[bucket], width);
        if (pass == 0) continue;
        for (int i = 0; i < width && place + i < capacity; ++i) items[place + i] = {b, block - i};
      }
    }
    __syncthreads();
    if (pass == 1) break;
    // Exclusive prefix sum over the buckets, one bucket a thread.
    __shared__ int32_t warp_sum[kScheduleThreads / kWarpSize];
    const int mine = start[threadIdx.x];
    const int before = BlockExclusiveSum(mine, warp_sum);
    start[threadIdx.x] = before;
    if (threadIdx.x == kScheduleThreads - 1) out->count = Min(before + mine, capacity);
    __syncthreads();
  }
}

int64_t MakeSchedule(const Problem& p, int block_m, int context_rows, void* workspace,
                     cudaStream_t stream, Schedule* schedule) {
  const MaskParams& mask = p.mask;
  const bool contexts = kWithContext && context_rows > 0 && mask.num_contexts != nullptr &&
                        mask.func == nullptr && mask.window_left < 0 && mask.window_right == 0;
  schedule->list = nullptr;
  schedule->batch = p.batch;
  schedule->heads = p.heads;
  const int levels = (p.max_seqlen_q + block_m - 1) / block_m;
  schedule->levels = levels + contexts;
  schedule->context_rows = contexts ? context_rows : 0;
  const int64_t dense = static_cast<int64_t>(schedule->levels) * p.batch;
  const int64_t at_most = p.total_q / block_m + p.batch + (contexts ? p.batch : 0);
  // A list pays when many dense blocks would be empty; a sort costs some microseconds.
  if (levels <= 2 || static_cast<int64_t>(levels) * p.batch <= p.total_q / block_m * 5 / 4 + 1) {
    return dense * p.heads;
  }
  ScheduleHeader* list = static_cast<ScheduleHeader*>(workspace);
  build_schedule<<<1, kScheduleThreads, 0, stream>>>(
      mask, p.cu_seqlens_q, p.cu_seqlens_k, p.batch, block_m, schedule->context_rows,
      p.max_seqlen_k / kScheduleBuckets + 1, static_cast<int>(at_most), list);
  schedule->list = list;
  return (at_most < dense ? at_most : dense) * p.heads;
}

}  // namespace accel::hstu
