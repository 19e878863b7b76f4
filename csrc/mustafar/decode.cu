// Dispatch of a decode, into how many parts it goes, and how these become one.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "csrc/common/device.h"
#include "csrc/common/portable.h"
#include "csrc/common/scratch.h"
#include "csrc/common/shared_memory.h"
#include "csrc/mustafar/decode.h"

namespace accel::mustafar {

constexpr int kCombineWarps = 8;

// Grid: batch * q_heads. A warp adds up every eighth part. What is needed first is asked for at
// once: the kernel is as long as the memory takes to answer, and it should not be asked twice.
template <class T>
__global__ void __launch_bounds__(kCombineWarps* kWarpSize)
    combine_kernel(const float* partial, const float2* maxima, int splits, int head_dim, T* out) {
  constexpr int kMostPerLane = 4;
  __shared__ float sums[kCombineWarps][kMostPerLane * kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t row = blockIdx.x;
  maxima += row * splits;
  partial += row * splits * head_dim;
  float next[kMostPerLane];
  const auto load = [&](int s) {
    for (int i = 0; i < kMostPerLane; ++i) {
      const int c = lane + i * kWarpSize;
      const bool there = s < splits && c < head_dim;
      next[i] = there ? partial[static_cast<int64_t>(s) * head_dim + c] : 0;
    }
  };
  load(warp);
  const float2 own = lane < splits ? maxima[lane] : float2{-INFINITY, 0};
  float top = own.x;
  for (int s = lane + kWarpSize; s < splits; s += kWarpSize) top = fmaxf(top, maxima[s].x);
  for (int d = 1; d < kWarpSize; d *= 2) top = fmaxf(top, __shfl_xor_sync(kFullMask, top, d));
  // A part without tokens has no weight, and no sums.
  const auto weight_of = [&](float part_top) {
    return part_top == -INFINITY ? 0 : exp2f(part_top - top);
  };
  float weights = weight_of(own.x) * own.y, sum[kMostPerLane] = {};
  for (int s = lane + kWarpSize; s < splits; s += kWarpSize) {
    weights += weight_of(maxima[s].x) * maxima[s].y;
  }
  for (int d = 1; d < kWarpSize; d *= 2) weights += __shfl_xor_sync(kFullMask, weights, d);
  for (int s = warp; s < splits; s += kCombineWarps) {
    const float of = __shfl_sync(kFullMask, own.x, s);
    const float weight = weight_of(s < kWarpSize ? of : maxima[s].x);
    for (int i = 0; i < kMostPerLane; ++i) sum[i] += weight == 0 ? 0 : weight * next[i];
    load(s + kCombineWarps);
  }
  for (int i = 0; i < kMostPerLane; ++i) sums[warp][lane + i * kWarpSize] = sum[i];
  __syncthreads();
  for (int c = threadIdx.x; c < head_dim; c += kCombineWarps * kWarpSize) {
    float all = 0;
    for (int w = 0; w < kCombineWarps; ++w) all += sums[w][c];
    out[row * head_dim + c] = T(weights > 0 ? all / weights : 0.0f);
  }
}

static int64_t Partials(const DecodeParams& p) {
  return static_cast<int64_t>(p.cache.batch) * p.q_heads * p.splits;
}

static DecodePlan PlanOf(const DecodeParams& p, const SharedMemory& memory) {
  constexpr int kEnoughSlots = 3;  // one is computed with, two are on their way
  DecodePlan plan;
  const int head_dim = p.cache.head_dim;
  const int unit = ItemBytes(head_dim, p.cache.k.kept) + ItemBytes(head_dim, p.cache.v.kept);
  const int dense = ItemBytes(head_dim, head_dim);
  plan.blocks = kDecodeBlocks;
  const auto warp_bytes = [&] {
    return (memory.processor / plan.blocks - SharedMemory::kReserved) / kDecodeWarps / 16 * 16;
  };
  while (plan.blocks > 1 && warp_bytes() < Max(kEnoughSlots * unit, 2 * dense)) --plan.blocks;
  const auto ring = [&](int bytes) { return Ring{Min(warp_bytes() / bytes, kMostSlots), bytes}; };
  plan.pages = ring(unit);
  plan.window = ring(dense);
  const int used =
      Max(plan.pages.slots * plan.pages.slot_bytes, plan.window.slots * plan.window.slot_bytes);
  const int result = kHeadsPerPass * (head_dim + 2) * static_cast<int>(sizeof(float));
  plan.warp_bytes = Max(used, result);  // WriteBlock
  plan.scale_log2 = p.scale * 1.4426950408889634f;
  return plan;
}

cudaError_t PlanDecode(DecodeParams* p) {
  const int processors = ProcessorCount();
  if (processors == 0) return cudaErrorInvalidDevice;
  SharedMemory memory;
  if (const cudaError_t e = SharedMemoryOfDevice(0, &memory)) return e;
  const Cache& c = p->cache;
  const int at_most = PlanOf(*p, memory).blocks;
  const int pairs = c.batch * c.heads * CeilDiv(p->q_heads / c.heads, kHeadsPerPass);
  const int units = CeilDiv(c.max_blocks * kBlockTokens + c.window, kUnitTokens);
  // Units of a warp, four for what a block costs besides, times what a unit takes with 1 to 4
  // blocks on a multiprocessor, as measured on an H200; and what adding up a part takes.
  constexpr int kUnitCost[kDecodeBlocks] = {12, 15, 19, 25}, kPartCost = 2;
  float best = INFINITY;
  const int most = Max(Min(CeilDiv(units, kDecodeWarps), 4 * processors * at_most / pairs), 1);
  for (int splits = 1; splits <= most; ++splits) {
    const int blocks = pairs * splits, beside = Min(CeilDiv(blocks, processors), at_most);
    const float own = static_cast<float>(units) / (kDecodeWarps * splits) + 4;
    const float cost =
        CeilDiv(blocks, processors * at_most) * own * kUnitCost[beside - 1] + splits * kPartCost;
    if (cost >= best) continue;
    best = cost;
    p->splits = splits;
  }
  return cudaSuccess;
}

size_t DecodeScratchBytes(const DecodeParams& p) {
  if (p.splits == 1) return 0;
  ScratchLayout layout;
  layout.Add(Partials(p) * p.cache.head_dim * sizeof(float));
  layout.Add(Partials(p) * sizeof(float2));
  return layout.bytes();
}

template <class T>
static cudaError_t DecodeAs(const DecodeParams& p, void* scratch, cudaStream_t stream) {
  ScratchLayout layout;
  char* const bytes = static_cast<char*>(scratch);
  auto* const partial =
      reinterpret_cast<float*>(bytes + layout.Add(Partials(p) * p.cache.head_dim * sizeof(float)));
  auto* const maxima = reinterpret_cast<float2*>(bytes + layout.Add(Partials(p) * sizeof(float2)));
  SharedMemory memory;
  if (const cudaError_t e = SharedMemoryOfDevice(0, &memory)) return e;
  const DecodePlan plan = PlanOf(p, memory);
  cudaError_t e = cudaErrorInvalidValue;
  if (p.cache.head_dim == 64) e = LaunchDecode<T, 64>(p, plan, partial, maxima, stream);
  if (p.cache.head_dim == 96) e = LaunchDecode<T, 96>(p, plan, partial, maxima, stream);
  if (p.cache.head_dim == 128) e = LaunchDecode<T, 128>(p, plan, partial, maxima, stream);
  if (e != cudaSuccess || p.splits == 1) return e;
  combine_kernel<T><<<p.cache.batch * p.q_heads, kCombineWarps * kWarpSize, 0, stream>>>(
      partial, maxima, p.splits, p.cache.head_dim, static_cast<T*>(p.out));
  return cudaGetLastError();
}

cudaError_t Decode(const DecodeParams& p, void* scratch, cudaStream_t stream) {
  return p.dtype == DType::kBf16 ? DecodeAs<__nv_bfloat16>(p, scratch, stream)
                                 : DecodeAs<__half>(p, scratch, stream);
}

}  // namespace accel::mustafar
