// File: mask.h
//
// One home, with mask_bits.cuh, for what every mask means. A mask is a union of column intervals
// per row; the kernels ask two questions of it: how a tile of rows x columns stands (empty,
// partial, full), and, inside a partial tile, which columns a row sees. Host and device code;
// tested on the CPU.
//
//   rows        columns visible                                (0 <= j < k_len always)
//   none        all
//   window L,R  i-L <= j <= i+R                                (causal: L unbounded, R = 0)
//   context     rows i < c also see j < hist_end               (causal only)
//   target      rows i >= hist_end see j < hist_end and, of their own group of G targets, j <= i
//   func        [0,f0) u [f1,f2) u [f3,f4) ...                 per packed query row
#pragma once

#include <cstdint>

#include "csrc/common/portable.h"

namespace accel::hstu {

enum class TileKind : int32_t { kEmpty = 0, kPartial = 1, kFull = 2 };

// A row sees  begin <= j < hist  or  group <= j < end.
struct RowSpan {
  int32_t begin, hist, group, end;

  ACCEL_HD bool sees(int32_t j) const {
    return (j >= begin && j < hist) || (j >= group && j < end);
  }
};

// The masks of one call.
struct MaskParams {
  int32_t window_left = -1;               // columns to the left of the diagonal; < 0: no bound
  int32_t window_right = -1;              // columns to the right of it; < 0: no bound
  const int32_t* num_contexts = nullptr;  // (batch) or null
  const int32_t* num_targets = nullptr;   // (batch) or null
  int32_t target_group_size = 1;
  const int32_t* func = nullptr;  // (n_func, >= total_q) interval ends, or null: window_* ignored
  int32_t n_func = 0;             // odd
  int64_t func_stride = 0;        // elements between func[n] and func[n + 1]
};

// The structured masks (all but func) of one sequence.
struct SeqMask {
  int32_t k_len;
  int32_t left, right;  // window; INT32_MAX: unbounded
  int32_t contexts;     // rows that see the whole history
  int32_t hist_end;     // k_len - num_targets
  int32_t group_size;

  // What absolute row i sees.
  ACCEL_HD RowSpan row(int32_t i) const {
    const int32_t begin = left >= i ? 0 : i - left;
    const int32_t end = right >= k_len - 1 - i ? k_len : Max(i + right + 1, 0);
    if (i >= hist_end) {
      const int32_t group = hist_end + (i - hist_end) / group_size * group_size;
      return {begin, hist_end, group, end};
    }
    if (i < contexts) return {begin, Max(hist_end, end), 0, 0};
    return {begin, end, 0, 0};
  }

  // How the tile of rows [m0, m1) and columns [n0, n1) stands. Needs 0 <= m0 < m1 <= k_len and
  // 0 <= n0 < n1 <= k_len; the first and the last row of each of the three kinds of row decide.
  ACCEL_HD TileKind tile(int32_t m0, int32_t m1, int32_t n0, int32_t n1) const {
    bool any = false, all = true;
    const int32_t context_end = Min(contexts, hist_end);
    if (m0 < context_end) {
      const int32_t last = Min(m1, context_end) - 1;
      any |= n0 < row(last).hist;
      all &= n1 <= row(m0).hist;
    }
    const int32_t h0 = Max(m0, context_end), h1 = Min(m1, hist_end);
    if (h0 < h1) {
      const RowSpan first = row(h0), last = row(h1 - 1);
      any |= first.begin < n1 && last.hist > n0;
      all &= last.begin <= n0 && first.hist >= n1;
    }
    const int32_t t0 = Max(m0, hist_end);
    if (t0 < m1) {
      const RowSpan first = row(t0), last = row(m1 - 1);
      any |= n0 < hist_end || (first.group < n1 && last.end > n0);
      all &= n1 <= hist_end || (last.group <= Max(n0, hist_end) && first.end >= n1);
    }
    return !any ? TileKind::kEmpty : all ? TileKind::kFull : TileKind::kPartial;
  }
};

}  // namespace accel::hstu
