// File: mask_bits.cuh
//
// What the kernels ask of a mask, of whatever kind: which of 32 columns a row sees, as the bits of
// a word; how a tile stands to the intervals of `func` (to the other masks: SeqMask::tile); and
// about how much is seen, by which work is ordered and split. Host and device code but for what a
// warp answers together; tested on the CPU.
#pragma once

#include <cstdint>

#include "csrc/common/portable.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask.h"

#if defined(__CUDACC__)
#include "csrc/common/warp.cuh"
#endif

namespace accel::hstu {

constexpr int kMaskBits = 32;  // columns of a word

// ---------------------------------------------------------------------------------------------
// One row
// ---------------------------------------------------------------------------------------------

// Bits 0..x-1, for any x.
ACCEL_HD uint32_t BitsBelow(int x) { return x >= kMaskBits ? ~0u : ~(~0u << Max(x, 0)); }

// Bits of the columns lo <= j < hi, bit 0 being column n.
ACCEL_HD uint32_t BitsBetween(int lo, int hi, int n) {
  return BitsBelow(hi - n) & ~BitsBelow(lo - n);
}

ACCEL_HD uint32_t SpanBits(const RowSpan& s, int n) {
  return BitsBetween(s.begin, s.hist, n) | BitsBetween(s.group, s.end, n);
}

// Calls fn(begin, end) for every interval of the packed row.
template <class Fn>
ACCEL_HD void ForEachInterval(const MaskParams& p, int packed_row, Fn fn) {
  const int32_t* f = p.func + packed_row;
  fn(0, f[0]);
  for (int i = 1; i + 1 < p.n_func; i += 2) fn(f[i * p.func_stride], f[(i + 1) * p.func_stride]);
}

// Which of the columns n..n+31 a row sees, none if it does not exist: `span` under a structured
// mask, else what `func` says of row `packed_row` of q. kMayBeFunc: else the caller knows that it
// is a structured one.
template <bool kMayBeFunc = true>
ACCEL_HD uint32_t VisibleBits(const MaskParams& p, const SeqMask& m, const RowSpan& span,
                              bool exists, int packed_row, int n) {
  if (kMayBeFunc && kWithArbitrary && p.func != nullptr) {
    if (!exists) return 0;
    uint32_t bits = 0;
    ForEachInterval(p, packed_row, [&](int begin, int end) { bits |= BitsBetween(begin, end, n); });
    return bits & BitsBelow(m.k_len - n);
  }
  return SpanBits(span, n);
}

// ---------------------------------------------------------------------------------------------
// A tile, under `func`
// ---------------------------------------------------------------------------------------------

// What is known of the pairs of a tile.
struct Seen {
  bool any, all;

  ACCEL_HD TileKind kind() const {
    return !any ? TileKind::kEmpty : all ? TileKind::kFull : TileKind::kPartial;
  }
};

// What a packed row sees of the columns [n0, n1); all: within one interval.
ACCEL_HD Seen RowSeesFunc(const MaskParams& p, int packed_row, int n0, int n1) {
  Seen seen = {false, false};
  ForEachInterval(p, packed_row, [&](int begin, int end) {
    seen.any |= begin < end && begin < n1 && end > n0;
    seen.all |= begin <= n0 && end >= n1;
  });
  return seen;
}

// Intervals of `func` that are summarised one by one; later ones share the last summary.
constexpr int kFuncSummaries = 32;

// The least and the greatest ends of one interval of `func` over the rows of a block. Aligned, so
// that one load fetches them and nothing beside them.
struct alignas(16) FuncSummary {
  int32_t lo_min = INT32_MAX, lo_max = INT32_MIN, hi_min = INT32_MAX, hi_max = INT32_MIN;

  ACCEL_HD void Add(int32_t lo, int32_t hi) {
    lo_min = Min(lo_min, lo);
    lo_max = Max(lo_max, lo);
    hi_min = Min(hi_min, hi);
    hi_max = Max(hi_max, hi);
  }
};

// How the rows that were summarised stand to the columns [n0, n1); kPartial where it is not known.
ACCEL_HD TileKind FuncTile(const MaskParams& p, const FuncSummary* summaries, int n0, int n1) {
  Seen seen = {false, false};
  for (int i = 0; i < Min((p.n_func + 1) / 2, kFuncSummaries); ++i) {
    const FuncSummary s = summaries[i];
    seen.any |= s.lo_min < n1 && s.hi_max > n0;
    seen.all |= s.lo_max <= n0 && s.hi_min >= n1;
  }
  return seen.kind();
}

#if defined(__CUDACC__)

// Summarises `rows` rows from packed row `first` on. Called by all warps of a block.
__device__ __forceinline__ void SummariseFunc(const MaskParams& p, int first, int rows,
                                              FuncSummary* summaries) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize;
  const int intervals = (p.n_func + 1) / 2;
  for (int i = warp; i < Min(intervals, kFuncSummaries); i += warps) {
    FuncSummary s;
    const bool shared = i == kFuncSummaries - 1 && intervals > kFuncSummaries;
    for (int n = i; n < (shared ? intervals : i + 1); ++n) {
      for (int row = lane; row < rows; row += kWarpSize) {
        const int32_t* f = p.func + first + row;
        const int lo = n == 0 ? 0 : f[(2 * n - 1) * p.func_stride];
        const int hi = f[2 * n * p.func_stride];
        s.Add(lo, hi);
      }
    }
    s.lo_min = __reduce_min_sync(kFullMask, s.lo_min);
    s.lo_max = shared ? INT32_MAX : __reduce_max_sync(kFullMask, s.lo_max);
    s.hi_min = __reduce_min_sync(kFullMask, s.hi_min);
    s.hi_max = __reduce_max_sync(kFullMask, s.hi_max);
    if (lane == 0) summaries[i] = s;
  }
}

// How `rows` rows from packed row `first` on stand to the columns [n0, n1). Whole warp.
__device__ __forceinline__ TileKind FuncTile(const MaskParams& p, int first, int rows, int n0,
                                             int n1) {
  Seen seen = {false, true};
  for (int row = threadIdx.x % kWarpSize; row < rows; row += kWarpSize) {
    const Seen of_row = RowSeesFunc(p, first + row, n0, n1);
    seen.any |= of_row.any;
    seen.all &= of_row.all;
  }
  return Seen{__any_sync(kFullMask, seen.any) != 0, __all_sync(kFullMask, seen.all) != 0}.kind();
}

#endif

// ---------------------------------------------------------------------------------------------
// A sequence
// ---------------------------------------------------------------------------------------------

// The structured mask of sequence `seq`.
ACCEL_HD SeqMask SequenceMask(const MaskParams& p, int seq, int k_len) {
  SeqMask m;
  m.k_len = k_len;
  m.left = p.window_left < 0 ? INT32_MAX : p.window_left;
  m.right = p.window_right < 0 ? INT32_MAX : p.window_right;
  m.contexts = kWithContext && p.num_contexts != nullptr ? p.num_contexts[seq] : 0;
  const int targets = kWithTarget && p.num_targets != nullptr ? p.num_targets[seq] : 0;
  m.hist_end = Max(k_len - targets, 0);
  m.group_size = p.target_group_size;
  return m;
}

// Columns that absolute rows first..last see, about.
ACCEL_HD int ColumnsSeen(const MaskParams& p, const SeqMask& m, int first, int last) {
  if (kWithArbitrary && p.func != nullptr) return m.k_len;
  const auto of = [&](int i) {
    const RowSpan s = m.row(i);
    return Max(s.hist - s.begin, 0) + Max(s.end - s.group, 0);
  };
  return Max(of(first), of(last));
}

// The rows that see any of the columns [n0, n1), about; context rows do not count.
struct RowRange {
  int32_t begin, end;
};
ACCEL_HD RowRange RowsThatSee(const MaskParams& p, const SeqMask& m, int q_len, int n0, int n1) {
  RowRange r = {0, q_len};
  if (kWithArbitrary && p.func != nullptr) return r;
  const int off = m.k_len - q_len;
  if (m.right < m.k_len) r.begin = Max(r.begin, n0 - m.right - off);
  if (m.left < m.k_len) r.end = Min(r.end, n1 + m.left - off);
  r.end = Max(r.begin, r.end);
  return r;
}

// The query rows that form a context block, the first of the sequence; 0: there is none.
ACCEL_HD int ContextBlockRows(const SeqMask& m, int q_len, int at_most) {
  const int rows = Min(Min(m.contexts, m.hist_end) - (m.k_len - q_len), q_len);
  return rows <= at_most ? Max(rows, 0) : 0;
}

// How much `block` rows or columns see of sequences that have at most `whole`, from sizes alone.
struct SeenLengths {
  int64_t longest, mean;
};
inline SeenLengths LengthsSeen(const MaskParams& m, int64_t block, int64_t whole) {
  const bool structured = m.func == nullptr;
  const bool local = structured && m.window_left >= 0 && m.window_right >= 0;
  const bool causal = structured && m.window_left < 0 && m.window_right == 0;
  const int64_t window = int64_t{m.window_left} + m.window_right + block;
  const int64_t longest = local && window < whole ? window : whole;
  return {longest, causal ? longest / 2 : longest};
}

}  // namespace accel::hstu
