// File: decode_kernel.cuh
//
// One query token against a cache: keys, online softmax and values in one pass.
//
// A block takes a part of the tokens of one kv head, each of its four warps every fourth unit of 16
// tokens, with all query heads of the kv head (up to 8) as the N of mma.m16n8k16. A warp has a ring
// of slots in shared memory, filled by cp.async; a slot holds a unit of pages, or the keys or the
// values of a unit of the window.
//
// Which channel is which index of a product is free, and is chosen so that a lane owns consecutive
// channels, one run of bits of each bitmap (g = lane / 4, t = lane % 4):
//   keys     rows g and g + 8 are tokens, the lane owns channels t D / 4 ... of each
//   values   k is the token: 2 t, 2 t + 1, 2 t + 8, 2 t + 9; the lane owns channels g D / 8 ...
#pragma once

#include <cstdint>
#include <type_traits>

#include "csrc/common/portable.h"
#include "csrc/common/sm80_tile.cuh"
#include "csrc/mustafar/decode.h"
#include "csrc/mustafar/expand.cuh"
#include "csrc/mustafar/items.cuh"
#include "csrc/mustafar/mustafar.h"

namespace accel::mustafar {

// Scores may be above the maximum that the sums are relative to by so many powers of two: sums are
// rescaled rarely, and a probability stays far below the largest fp16.
constexpr float kSlack = 8;

// Transposes an 8 x 8 matrix of 16-bit values that the warp holds as a C tile.
__device__ __forceinline__ uint32_t MoveMatrix(uint32_t x) {
  uint32_t r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(r) : "r"(x));
  return r;
}

__device__ __forceinline__ float PowerOf2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Two probabilities, which are below 2^kSlack, rounded; `lo` in the low half.
template <class T>
__device__ __forceinline__ uint32_t PackProbabilities(float lo, float hi) {
  uint32_t r;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
  }
  return r;
}

// What a warp knows of its query heads, 2 t and 2 t + 1 in each lane.
template <class T, int D>
struct Attention {
  static constexpr int kRuns = D / 32;  // of a lane: eight channels of keys, four of values
  static constexpr int kPairs = CeilDiv(kRuns, 2);
  static constexpr int kTiles = D / 16;  // of 16 channels

  uint32_t q[2 * kRuns][2];
  float o[kTiles][4];  // tile 2 i + e: channels 2 e (o[0], o[1]) and 2 e + 1 (o[2], o[3]) of run i
  float m[2], l[2];    // l: of this lane's rows
  // The bits below a run, of which the lane has a word.
  uint32_t key_prefix[kRuns];        // B of CountTwice: column 2 t + e is nibble e of run i of t
  uint32_t value_prefix[kPairs][2];  // A of CountTwice: rows g and g + 8 are runs 2 i, 2 i + 1 of g
  int g, t;

  __device__ __forceinline__ void Begin(const T* heads_q, int heads) {
    const int lane = threadIdx.x % kWarpSize;
    g = lane / 4;
    t = lane % 4;
    const uint4* const own = reinterpret_cast<const uint4*>(heads_q + g * D + t * (D / 4));
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const uint4 v = g < heads ? own[i] : uint4{0, 0, 0, 0};
      q[2 * i][0] = v.x;
      q[2 * i][1] = v.y;
      q[2 * i + 1][0] = v.z;
      q[2 * i + 1][1] = v.w;
      key_prefix[i] = Kept(PrefixWord(g / 2 * (D / 4) + 8 * i + g % 2 * 4, t));
      value_prefix[i / 2][i % 2] = Kept(PrefixWord(g * (D / 8) + 4 * i, t));
    }
    if constexpr (kRuns % 2 != 0) value_prefix[kPairs - 1][1] = 0;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
    m[0] = m[1] = -INFINITY;
    l[0] = l[1] = 0;
  }

  // s = the scores of tokens g and g + 8 with heads 2 t and 2 t + 1.
  __device__ __forceinline__ void DenseKeys(uint32_t slot, float (&s)[4]) const {
#pragma unroll
    for (int c = 0; c < kRuns; ++c) {
      const uint32_t at = slot + DenseOffset<D, false>(g, t * kRuns + c);
      const uint4 x = LoadShared(at), y = LoadShared(at + 8 * 2 * D);
      Mma<T>(s, {x.x, y.x, x.y, y.y}, q[2 * c][0], q[2 * c][1]);
      Mma<T>(s, {x.z, y.z, x.w, y.w}, q[2 * c + 1][0], q[2 * c + 1][1]);
    }
  }

  // This lane's word of the bitmap of row g of eight tokens; behind the last word any.
  __device__ __forceinline__ uint32_t BitmapWord(uint32_t bitmaps) const {
    return LoadWord(bitmaps + g * (D / 8) + (t < D / 32 ? t : 0) * 4);
  }

  // Each register of x and y is one channel: those of the low halves of q, then of the high ones.
  __device__ __forceinline__ static void AddKeys(float (&s)[4], const uint32_t (&x)[4],
                                                 const uint32_t (&y)[4], const uint32_t (&q)[2]) {
    Mma<T>(s, {x[0], y[0], x[2], y[2]}, q[0], q[1]);
    Mma<T>(s, {x[1], y[1], x[3], y[3]}, q[0] >> 16, q[1] >> 16);
  }

  template <int kRun>
  __device__ __forceinline__ void PackedKeyRun(uint32_t w0, uint32_t w1, const uint32_t (&row)[4],
                                               uint32_t b0, uint32_t b1, float (&s)[4]) const {
    if constexpr (kRun < kRuns) {
      constexpr int kFrom = 8 * kRun;
      uint32_t at[4], x[4], y[4];
      CountTwice(at, w0, w1, key_prefix[kRun], row);
      Expand<kFrom>(b0, at[0], x);
      Expand<kFrom>(b1, at[2], y);
      AddKeys(s, x, y, q[2 * kRun]);
      Expand<kFrom + 4>(b0, at[1], x);
      Expand<kFrom + 4>(b1, at[3], y);
      AddKeys(s, x, y, q[2 * kRun + 1]);
      PackedKeyRun<kRun + 1>(w0, w1, row, b0, b1, s);
    }
  }

  __device__ __forceinline__ void PackedKeys(uint32_t slot, int kept, float (&s)[4]) const {
    const uint32_t w0 = BitmapWord(slot), w1 = BitmapWord(slot + D);
    uint32_t b0 = w0, b1 = w1;
    if constexpr (D != 128) {
      b0 = LoadBits<D / 4, 0>(slot + g * (D / 8), t * (D / 4));
      b1 = LoadBits<D / 4, 0>(slot + D + g * (D / 8), t * (D / 4));
    }
    const uint32_t first = slot + kUnitTokens * D / 8 + 2 * kept * g, second = first + 16 * kept;
    PackedKeyRun<0>(w0, w1, {first, first, second, second}, b0, b1, s);
  }

  // Scores to probabilities, which are the right side of the values' product. `rows`: how many
  // tokens there are; of the 16, those behind have zeros.
  __device__ __forceinline__ void Softmax(float (&s)[4], float scale, int rows, uint32_t (&p)[2]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] *= scale;
    if (rows < kUnitTokens) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i] = g + i / 2 * 8 < rows ? s[i] : -INFINITY;
    }
    float top[2] = {fmaxf(s[0], s[2]), fmaxf(s[1], s[3])};
    if (__any_sync(kFullMask, top[0] > m[0] + kSlack || top[1] > m[1] + kSlack)) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int d = 4; d < kWarpSize; d *= 2) {
          top[h] = fmaxf(top[h], __shfl_xor_sync(kFullMask, top[h], d));
        }
        top[h] = fmaxf(top[h], m[h]);
        const float change = top[h] == m[h] ? 1 : PowerOf2(m[h] - top[h]);
        m[h] = top[h];
        l[h] *= change;
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          o[i][h] *= change;
          o[i][h + 2] *= change;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = PowerOf2(s[i] - m[i % 2]);
    l[0] += s[0] + s[2];
    l[1] += s[1] + s[3];
    p[0] = MoveMatrix(PackProbabilities<T>(s[0], s[1]));
    p[1] = MoveMatrix(PackProbabilities<T>(s[2], s[3]));
  }

  // Two channels of the lane's four tokens times p.
  __device__ __forceinline__ void AddValues(int tile, const uint32_t (&x)[4],
                                            const uint32_t (&p)[2]) {
    Mma<T>(o[tile],
           {Permute(x[0], x[1], 0x5410), Permute(x[0], x[1], 0x7632), Permute(x[2], x[3], 0x5410),
            Permute(x[2], x[3], 0x7632)},
           p[0], p[1]);
  }

  __device__ __forceinline__ static int TokenOf(int i, int t) { return 2 * t + i % 2 + i / 2 * 8; }

  __device__ __forceinline__ void DenseValues(uint32_t slot, const uint32_t (&p)[2]) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      uint32_t lo[4], hi[4];
      const int byte = 2 * (g * (D / 8) + 4 * run);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t at = slot + DenseOffset<D, true>(TokenOf(i, t), byte / 16) + byte % 16;
        asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];\n" : "=r"(lo[i]), "=r"(hi[i]) : "r"(at));
      }
      AddValues(2 * run, lo, p);
      AddValues(2 * run + 1, hi, p);
    }
  }

  // Each register is a channel of one token: 2 t and 2 t + 8, then 2 t + 1 and 2 t + 9.
  template <int kRun>
  __device__ __forceinline__ void PackedValueRun(const uint32_t (&bits)[4],
                                                 const uint32_t (&at)[2][4], const uint32_t (&p)[2],
                                                 const uint32_t (&p_odd)[2]) {
    if constexpr (kRun < kRuns) {
      constexpr int kFrom = kValuesFrom + 4 * kRun, kRow = kRun % 2 * 2;
      uint32_t x[4], y[4];
      Expand<kFrom>(bits[0], at[0][kRow], x);
      Expand<kFrom>(bits[2], at[1][kRow], y);
      Mma<T>(o[2 * kRun], {x[0], x[1], y[0], y[1]}, p[0], p[1]);
      Mma<T>(o[2 * kRun + 1], {x[2], x[3], y[2], y[3]}, p[0], p[1]);
      Expand<kFrom>(bits[1], at[0][kRow + 1], x);
      Expand<kFrom>(bits[3], at[1][kRow + 1], y);
      Mma<T>(o[2 * kRun], {x[0], x[1], y[0], y[1]}, p_odd[0], p_odd[1]);
      Mma<T>(o[2 * kRun + 1], {x[2], x[3], y[2], y[3]}, p_odd[0], p_odd[1]);
    }
  }

  template <int kPair>
  __device__ __forceinline__ void PackedValuePair(const uint32_t (&bits)[4],
                                                  const uint32_t (&words)[2],
                                                  const uint32_t (&row)[2][4],
                                                  const uint32_t (&p)[2],
                                                  const uint32_t (&p_odd)[2]) {
    if constexpr (kPair < kPairs) {
      uint32_t at[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        CountTwice(at[i], value_prefix[kPair][0], value_prefix[kPair][1], words[i], row[i]);
      }
      PackedValueRun<2 * kPair>(bits, at, p, p_odd);
      PackedValueRun<2 * kPair + 1>(bits, at, p, p_odd);
      PackedValuePair<kPair + 1>(bits, words, row, p, p_odd);
    }
  }

  __device__ __forceinline__ void PackedValues(uint32_t slot, int kept, const uint32_t (&p)[2]) {
    const uint32_t words[2] = {BitmapWord(slot), BitmapWord(slot + D)};
    uint32_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bits[i] = LoadBits<D / 8, kValuesFrom>(slot + TokenOf(i, t) * (D / 8), g * (D / 8));
    }
    const uint32_t first = slot + kUnitTokens * D / 8 + 4 * kept * t;
    const uint32_t odd = first + 2 * kept, far = 16 * kept;
    const uint32_t row[2][4] = {{first, odd, first, odd},
                                {first + far, odd + far, first + far, odd + far}};
    PackedValuePair<0>(bits, words, row, p, {p[0] >> 16, p[1] >> 16});
  }
};

// A ring of slots in a warp's shared memory.
struct Cursor {
  uint32_t slots, at;
  Ring ring;

  __device__ __forceinline__ Cursor(uint32_t slots, const Ring& ring)
      : slots(slots), at(slots), ring(ring) {}

  // The slot that it is at; then it is at the next one.
  __device__ __forceinline__ uint32_t Next() {
    const uint32_t slot = at;
    at += ring.slot_bytes;
    if (at == slots + ring.slots * ring.slot_bytes) at = slots;
    return slot;
  }
};

// Units first, first + 4 ... of a sequence's pages: in each page the same 16 tokens.
template <class T, int D>
__device__ __forceinline__ void WalkPages(const Cache& c, int sequence, int head, int compressed,
                                          const Ring& ring, uint32_t slots, int unit, int end,
                                          float scale, Attention<T, D>& a) {
  static_assert(kDecodeWarps * kUnitTokens == kBlockTokens, "a warp goes from page to page");
  Cursor write(slots, ring), read(slots, ring);
  const int row_in_page = head * kBlockTokens + unit * kUnitTokens % kBlockTokens;
  const int key_bytes = ItemBytes(D, c.k.kept);
  const bool packed = c.k.kept != D && c.v.kept != D;
  const UnitCopy<D> copy(c.k, c.v, key_bytes);
  int ahead = unit;
  const auto issue = [&] {
    const uint32_t slot = write.Next();
    if (ahead < end) {
      const int page = Max(c.Page(sequence, static_cast<unsigned>(ahead) / kDecodeWarps), 0);
      const int row = page * (c.heads * kBlockTokens) + row_in_page;
      const int rows = Min(compressed - ahead * kUnitTokens, kUnitTokens);
      if (rows == kUnitTokens && packed) {
        copy(slot, key_bytes, row, c.k.kept, c.v.kept);
      } else {
        CopyPacked<D, false>(slot, c.k, row, rows);
        CopyPacked<D, true>(slot + key_bytes, c.v, row, rows);
      }
    }
    CpAsyncCommit();
    ahead += kDecodeWarps;
  };
  for (int i = 1; i < ring.slots; ++i) issue();
  for (; unit < end; unit += kDecodeWarps) {
    WaitPending(ring.slots - 2);
    __syncwarp();
    issue();  // to the slot that was read last
    const uint32_t keys = read.Next(), values = keys + key_bytes;
    float s[4] = {0, 0, 0, 0};
    uint32_t p[2];
    if (c.k.kept == D) {
      a.DenseKeys(keys, s);
    } else {
      a.PackedKeys(keys, c.k.kept, s);
    }
    a.Softmax(s, scale, compressed - unit * kUnitTokens, p);
    if (c.v.kept == D) {
      a.DenseValues(values, p);
    } else {
      a.PackedValues(values, c.v.kept, p);
    }
  }
  CpAsyncWait<0>();
  __syncwarp();
}

// Units of the window, whose first token is `compressed`. A slot holds keys or values.
template <class T, int D>
__device__ __forceinline__ void WalkWindow(const Cache& c, int sequence, int head, int compressed,
                                           int tokens, const Ring& ring, uint32_t slots, int unit,
                                           int end, float scale, Attention<T, D>& a) {
  if (unit >= end) return;
  Cursor write(slots, ring), read(slots, ring);
  const int64_t at = (static_cast<int64_t>(sequence) * c.heads + head) * c.window * D;
  int ahead = 2 * unit;
  const auto issue = [&] {
    const uint32_t slot = write.Next();
    const int token = compressed + ahead / 2 * kUnitTokens;
    if (ahead / 2 < end) {
      if (ahead % 2 == 0) {
        CopyDense<D, false>(slot, c.k_window + at, token % c.window, c.window, tokens - token);
        ++ahead;
      } else {
        CopyDense<D, true>(slot, c.v_window + at, token % c.window, c.window, tokens - token);
        ahead += 2 * kDecodeWarps - 1;
      }
    }
    CpAsyncCommit();
  };
  const auto next = [&] {
    WaitPending(ring.slots - 2);
    __syncwarp();
    issue();
    return read.Next();
  };
  for (int i = 1; i < ring.slots; ++i) issue();
#pragma unroll 1
  for (; unit < end; unit += kDecodeWarps) {
    float s[4] = {0, 0, 0, 0};
    uint32_t p[2];
    a.DenseKeys(next(), s);
    a.Softmax(s, scale, tokens - compressed - unit * kUnitTokens, p);
    a.DenseValues(next(), p);
  }
  CpAsyncWait<0>();
  __syncwarp();
}

// The four warps' results, in shared memory, to one: sums of heads `heads` of this block.
template <class T, int D>
__device__ void WriteBlock(const Attention<T, D>& a, float* shared, int heads, int64_t first_head,
                           int splits, int split, float* partial, float2* maxima, T* out) {
  const int warp = threadIdx.x / kWarpSize;
  float* const o = shared + warp * kHeadsPerPass * D;
  float2* const ml = reinterpret_cast<float2*>(shared + kDecodeWarps * kHeadsPerPass * D);
  float l[2] = {a.l[0], a.l[1]};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int d = 4; d < kWarpSize; d *= 2) l[h] += __shfl_xor_sync(kFullMask, l[h], d);
    const int head = 2 * a.t + h;
    if (a.g == 0) ml[warp * kHeadsPerPass + head] = {a.m[h], l[h]};
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      const int channel = a.g * (D / 8) + i / 2 * 4 + i % 2 * 2;
      *reinterpret_cast<float2*>(o + head * D + channel) = {a.o[i][h], a.o[i][h + 2]};
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * D; i += kDecodeThreads) {
    const int head = i / D;
    float top = -INFINITY, sum = 0, weight_sum = 0;
    for (int w = 0; w < kDecodeWarps; ++w) top = Max(top, ml[w * kHeadsPerPass + head].x);
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float2 of = ml[w * kHeadsPerPass + head];
      const float weight = of.x == -INFINITY ? 0 : exp2f(of.x - top);
      sum += weight * shared[w * kHeadsPerPass * D + i];
      weight_sum += weight * of.y;
    }
    const int64_t row = first_head + head;
    if (splits == 1) {
      out[row * D + i % D] = T(weight_sum > 0 ? sum / weight_sum : 0.0f);
    } else {
      partial[(row * splits + split) * D + i % D] = sum;
      if (i % D == 0) maxima[row * splits + split] = {top, weight_sum};
    }
  }
}

// Grid: (batch * heads * passes, splits).
template <class T, int D>
__global__ void __launch_bounds__(kDecodeThreads, kDecodeBlocks)
    decode_kernel(const DecodeParams p, const DecodePlan plan, float* partial, float2* maxima) {
  extern __shared__ __align__(1024) char shared[];
  const Cache& c = p.cache;
  const int groups = p.q_heads / c.heads, passes = CeilDiv(groups, kHeadsPerPass);
  const int pass = blockIdx.x % passes, head = blockIdx.x / passes % c.heads;
  const int sequence = blockIdx.x / passes / c.heads;
  const int heads = Min(groups - pass * kHeadsPerPass, kHeadsPerPass);
  const int64_t first_head =
      static_cast<int64_t>(sequence) * p.q_heads + head * groups + pass * kHeadsPerPass;
  const int warp = threadIdx.x / kWarpSize;

  Attention<T, D> a;
  a.Begin(static_cast<const T*>(p.q) + first_head * D, heads);
  const int tokens = c.state[sequence].tokens, compressed = c.state[sequence].compressed;
  const int packed_units = CeilDiv(compressed, kUnitTokens);
  const int units = packed_units + CeilDiv(tokens - compressed, kUnitTokens);
  // This block's units, those of the window behind those of the pages.
  const int split = blockIdx.y, splits = gridDim.y, more = units % splits;
  const int begin = units / splits * split + Min(split, more);
  const int end = begin + units / splits + (split < more);
  const uint32_t slots = SmemAddress(shared) + warp * plan.warp_bytes;
  WalkPages(c, sequence, head, compressed, plan.pages, slots, begin + warp, Min(end, packed_units),
            plan.scale_log2, a);
  WalkWindow(c, sequence, head, compressed, tokens, plan.window, slots,
             Max(begin - packed_units, 0) + warp, end - packed_units, plan.scale_log2, a);
  __syncthreads();
  WriteBlock(a, reinterpret_cast<float*>(shared), heads, first_head, gridDim.y, blockIdx.y, partial,
             maxima, static_cast<T*>(p.out));
}

}  // namespace accel::mustafar
