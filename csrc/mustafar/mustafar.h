// File: mustafar.h
//
// Decode attention over a pruned, bitmap-compressed KV cache: what the op layer asks of the
// kernels. Pointers and a stream; every function returns a cudaError_t and launches without
// reading anything back.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "csrc/mustafar/bitmap.h"

namespace accel::mustafar {

enum class DType { kFp16, kBf16 };

constexpr int kHeadsPerPass = 8;  // query heads that share one reading of a kv head

// Pages of `rows`, see bitmap.h: bitmaps (pages, heads, 64, D / 32), values (pages, heads, 64,
// kept).
struct Rows {
  uint32_t* bitmaps = nullptr;  // null where kept == D
  uint16_t* values = nullptr;
  int32_t kept = 0;
};

// What a sequence of the batch is at. The cache's state is (batch, 4) int32.
struct State {
  int32_t tokens;      // all of them
  int32_t compressed;  // the first ones, which lie in pages; the others are in the window
  int32_t full;        // 1: a token did not fit, and was not stored
  int32_t arrived;     // blocks of a running append that have read the others
};

// The tokens of the window lie at token % window of (batch, heads, window, D).
struct Cache {
  Rows k, v;
  uint16_t* k_window = nullptr;
  uint16_t* v_window = nullptr;
  State* state = nullptr;
  // (batch, max_blocks): the page of each block, -1 for none; null: batch * max_blocks pages in
  // order.
  const int32_t* block_table = nullptr;
  int32_t pages = 0;
  int32_t max_blocks = 0;
  int32_t batch = 0;
  int32_t heads = 0;
  int32_t head_dim = 0;
  int32_t window = 0;

  // The page of a sequence's block, or a negative number.
  ACCEL_HD int Page(int sequence, int block) const {
    const int at = sequence * max_blocks + block;
    return block_table == nullptr ? at : block_table[at];
  }
};

struct DecodeParams {
  Cache cache;
  DType dtype = DType::kFp16;
  const void* q = nullptr;  // (batch, q_heads, D)
  void* out = nullptr;      // likewise
  int32_t q_heads = 0;
  float scale = 1;
  int32_t splits = 0;  // 0: as the GPU and the cache's capacity want it
};

// Into how many parts the tokens of a sequence are split; fills in p->splits.
cudaError_t PlanDecode(DecodeParams* p);
size_t DecodeScratchBytes(const DecodeParams& p);
cudaError_t Decode(const DecodeParams& p, void* scratch, cudaStream_t stream);

// Dense tokens, 16 bits an element: strides in elements, the last one is 1.
struct Dense {
  const uint16_t* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, token_stride = 0;
};

// Tokens that enter a cache. Blocks of `block` tokens leave the window for the pages, and at least
// `residual` tokens stay in it; residual + block <= window.
struct StoreParams {
  Cache cache;
  Dense k, v;
  int32_t residual = 0;
  int32_t block = 0;
  // Of a prefill: where a sequence's tokens begin, and how many there are.
  int32_t tokens = 0;
  const int32_t* starts = nullptr;
  const int32_t* lengths = nullptr;
};

// One more token for each sequence; what leaves the window is compressed first. A sequence whose
// pages are full is left as it is, with full = 1.
cudaError_t Append(const StoreParams& p, cudaStream_t stream);
// The first tokens of every sequence.
cudaError_t Prefill(const StoreParams& p, cudaStream_t stream);
// (rows, D) to (rows, D / 32) bitmaps and (rows, kept) values.
cudaError_t CompressRows(const uint16_t* x, const Rows& out, int64_t rows, int head_dim,
                         cudaStream_t stream);

struct TileParams {
  const uint16_t* x = nullptr;  // (heads, tokens, D)
  int32_t heads = 0, tokens = 0, head_dim = 0;
  bool keys = false;
  int64_t* bitmaps = nullptr;  // (heads, tokens * D / 64)
  int32_t* counts = nullptr;   // (heads, tokens * D / 64): values with padding, in units of two
  const int32_t* offsets = nullptr;  // (heads, tokens * D / 64 + 1)
  const int32_t* starts = nullptr;   // (heads)
  uint16_t* packed = nullptr;
};

cudaError_t TileBitmaps(const TileParams& p, cudaStream_t stream);
cudaError_t TilePack(const TileParams& p, cudaStream_t stream);

// fp16: rows of 8 of `b` times the keys (scores), or times the values (outputs).
struct TileProductParams {
  const int64_t* bitmaps = nullptr;
  const uint16_t* packed = nullptr;
  const int32_t* offsets = nullptr;
  const int32_t* starts = nullptr;
  const uint16_t* b = nullptr;  // (batch, 8, D) for keys, (batch, 8, tokens) for values
  uint16_t* out = nullptr;      // (batch, 8, tokens) for keys, (batch, 8, D) for values
  int32_t batch = 0, groups = 0, tokens = 0, head_dim = 0;
};

cudaError_t TileKeys(const TileProductParams& p, cudaStream_t stream);
size_t TileValuesScratchBytes(const TileProductParams& p);
cudaError_t TileValues(const TileProductParams& p, void* scratch, cudaStream_t stream);

}  // namespace accel::mustafar
