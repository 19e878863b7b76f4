// Tokens that enter a cache: into the window, and out of it into the pages.
#include <type_traits>

#include "csrc/common/portable.h"
#include "csrc/mustafar/compress.cuh"

namespace accel::mustafar {

// Compresses tokens first .. of a sequence that lie in one unit of 16 of its pages.
template <int D, class Token>
__device__ __forceinline__ void StoreUnit(const Cache& c, bool values, int sequence, int head,
                                          int first, int rows, const Token& token, char* shared) {
  const int page = c.Page(sequence, first / kBlockTokens);
  if (page < 0) return;
  const Rows& to = values ? c.v : c.k;
  const int64_t row = RowAt(page, c.heads, head, first);
  uint32_t* const bitmaps = to.kept < D ? to.bitmaps + row * (D / 32) : nullptr;
  CompressUnit<D>(token, rows, bitmaps, to.values + row * to.kept, to.kept, shared);
}

// Grid: (batch * heads).
template <int D>
__global__ void __launch_bounds__(kCompressWarps* kWarpSize) append_kernel(const StoreParams p) {
  __shared__ __align__(16) char shared[kCompressWarps][PackedUnitBytes<D>()];
  __shared__ bool last;
  const Cache& c = p.cache;
  const int sequence = blockIdx.x / c.heads, head = blockIdx.x % c.heads;
  const int warp = threadIdx.x / kWarpSize;
  State* const state = c.state + sequence;
  const int tokens = state->tokens, compressed = state->compressed;
  const bool leaves = tokens - compressed == p.residual + p.block;
  bool fits = true;
  if (leaves) {
    const int end = compressed + p.block;
    fits = end <= c.max_blocks * kBlockTokens;
    for (int block = compressed / kBlockTokens; fits && block * kBlockTokens < end; ++block) {
      fits = c.Page(sequence, block) >= 0;
    }
  }
  const int64_t ring = (static_cast<int64_t>(sequence) * c.heads + head) * c.window;
  if (leaves && fits) {
    // Pieces of units, those of the keys and those of the values.
    const int first_unit = compressed / kUnitTokens;
    const int units = CeilDiv(compressed + p.block, kUnitTokens) - first_unit;
    for (int i = warp; i < 2 * units; i += kCompressWarps) {
      const bool values = i >= units;
      const int unit = first_unit + i % units;
      const int from = Max(unit * kUnitTokens, compressed);
      const int to = Min((unit + 1) * kUnitTokens, compressed + p.block);
      const uint16_t* const window = values ? c.v_window : c.k_window;
      StoreUnit<D>(
          c, values, sequence, head, from, to - from,
          [&](int row) { return window + (ring + (from + row) % c.window) * D; }, shared[warp]);
    }
  }
  __syncthreads();  // the new token may take the place of one that left
  if (fits) {
    const int64_t to = (ring + tokens % c.window) * D;
    for (int i = threadIdx.x; i < 2 * D; i += kCompressWarps * kWarpSize) {
      const bool values = i >= D;
      const Dense& from = values ? p.v : p.k;
      (values ? c.v_window : c.k_window)[to + i % D] =
          from.data[sequence * from.batch_stride + head * from.head_stride + i % D];
    }
  }
  // The last block of the sequence to come here says what is new: all have read what was.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicInc(reinterpret_cast<unsigned*>(&state->arrived), c.heads - 1) + 1 ==
           static_cast<unsigned>(c.heads);
    if (last) {
      state->tokens = tokens + fits;
      state->compressed = compressed + (leaves && fits ? p.block : 0);
      state->full |= !fits;
    }
  }
}

// Grid: (units, heads, batch * 2): the keys and the values.
template <int D>
__global__ void __launch_bounds__(kCompressWarps* kWarpSize) prefill_kernel(const StoreParams p) {
  __shared__ __align__(16) char shared[kCompressWarps][PackedUnitBytes<D>()];
  const Cache& c = p.cache;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int sequence = blockIdx.z / 2, head = blockIdx.y;
  const bool values = blockIdx.z % 2;
  const int first = (blockIdx.x * kCompressWarps + warp) * kUnitTokens;
  const int tokens = p.lengths[sequence];
  const int compressed = Max(tokens - p.residual, 0) / p.block * p.block;
  const Dense& from = values ? p.v : p.k;
  const uint16_t* const dense = from.data + sequence * from.batch_stride + head * from.head_stride +
                                p.starts[sequence] * from.token_stride;
  if (first < compressed) {
    StoreUnit<D>(
        c, values, sequence, head, first, Min(compressed - first, kUnitTokens),
        [&](int row) { return dense + (first + row) * from.token_stride; }, shared[warp]);
  }
  uint16_t* const window = (values ? c.v_window : c.k_window) +
                           (static_cast<int64_t>(sequence) * c.heads + head) * c.window * D;
  for (int i = Max(first, compressed); i < Min(first + kUnitTokens, tokens); ++i) {
    for (int d = lane; d < D; d += kWarpSize) {
      window[i % c.window * D + d] = dense[i * from.token_stride + d];
    }
  }
  if (first == 0 && head == 0 && !values && lane == 0) {
    c.state[sequence] = {tokens, compressed, 0, 0};
  }
}

template <int D>
__global__ void __launch_bounds__(kCompressWarps* kWarpSize)
    compress_rows_kernel(const uint16_t* x, Rows out, int64_t rows) {
  __shared__ __align__(16) char shared[kCompressWarps][PackedUnitBytes<D>()];
  const int warp = threadIdx.x / kWarpSize;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kCompressWarps + warp) * kUnitTokens;
  if (first >= rows) return;
  CompressUnit<D>([&](int row) { return x + (first + row) * D; },
                  static_cast<int>(Min<int64_t>(rows - first, kUnitTokens)),
                  out.bitmaps + first * (D / 32), out.values + first * out.kept, out.kept,
                  shared[warp]);
}

// Calls f with the head dim as a constant.
template <class F>
static cudaError_t ByHeadDim(int head_dim, const F& f) {
  switch (head_dim) {
    case 64:
      f(std::integral_constant<int, 64>());
      break;
    case 96:
      f(std::integral_constant<int, 96>());
      break;
    case 128:
      f(std::integral_constant<int, 128>());
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

constexpr int kThreads = kCompressWarps * kWarpSize;
constexpr int kTokensOfBlock = kCompressWarps * kUnitTokens;

cudaError_t Append(const StoreParams& p, cudaStream_t stream) {
  return ByHeadDim(p.cache.head_dim, [&](auto d) {
    append_kernel<d><<<p.cache.batch * p.cache.heads, kThreads, 0, stream>>>(p);
  });
}

cudaError_t Prefill(const StoreParams& p, cudaStream_t stream) {
  const dim3 grid(CeilDiv(p.tokens, kTokensOfBlock), p.cache.heads, p.cache.batch * 2);
  return ByHeadDim(p.cache.head_dim,
                   [&](auto d) { prefill_kernel<d><<<grid, kThreads, 0, stream>>>(p); });
}

cudaError_t CompressRows(const uint16_t* x, const Rows& out, int64_t rows, int head_dim,
                         cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(rows, kTokensOfBlock));
  return ByHeadDim(head_dim, [&](auto d) {
    compress_rows_kernel<d><<<blocks, kThreads, 0, stream>>>(x, out, rows);
  });
}

}  // namespace accel::mustafar
