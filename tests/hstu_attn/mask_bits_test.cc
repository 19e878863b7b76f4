// File: mask_bits_test.cc
//
// mask_bits.cuh by brute force: words of visible columns against the pairs of the mask one by one,
// what is said of tiles and ranges against the pairs in them.

#include "csrc/hstu_attn/mask_bits.cuh"

#include <climits>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

using accel::hstu::BitsBetween;
using accel::hstu::ContextBlockRows;
using accel::hstu::FuncSummary;
using accel::hstu::FuncTile;
using accel::hstu::kFuncSummaries;
using accel::hstu::MaskParams;
using accel::hstu::RowRange;
using accel::hstu::RowSeesFunc;
using accel::hstu::RowSpan;
using accel::hstu::RowsThatSee;
using accel::hstu::SeqMask;
using accel::hstu::SequenceMask;
using accel::hstu::TileKind;
using accel::hstu::VisibleBits;

int64_t checks = 0;
int wrong = 0;

void expect(bool holds, const char* what, int a, int b, int c) {
  ++checks;
  if (holds || ++wrong > 10) return;
  std::printf("%s: %d %d %d\n", what, a, b, c);
}

void bits() {
  for (int lo = -40; lo <= 80; ++lo) {
    for (int hi = -40; hi <= 80; ++hi) {
      uint32_t want = 0;
      for (int j = 0; j < 32; ++j) want |= (j + 7 >= lo && j + 7 < hi ? 1u : 0u) << j;
      expect(BitsBetween(lo, hi, 7) == want, "wrong bits between", lo, hi, 7);
    }
  }
}

// Every structured mask of one sequence, its rows the last q_len ones.
void structured(int q_len, int k_len, const MaskParams& p) {
  const SeqMask m = SequenceMask(p, 0, k_len);
  const int off = k_len - q_len;
  const int contexts = ContextBlockRows(m, q_len, q_len);
  for (int r = 0; r < q_len; ++r) {
    expect((off + r < m.contexts && off + r < m.hist_end) == (r < contexts), "wrong context rows",
           q_len, k_len, r);
    for (int n = 0; n < k_len; n += 5) {
      const uint32_t got = VisibleBits(p, m, m.row(off + r), true, r, n);
      for (int j = 0; j < 32; ++j) {
        const bool sees = n + j < k_len && m.row(off + r).sees(n + j);
        expect((got >> j & 1) == (sees ? 1u : 0u), "wrong word", r, n, j);
      }
      const RowRange range = RowsThatSee(p, m, q_len, n, n + 3);
      const bool in = r >= range.begin && r < range.end;
      const bool counts = off + r >= m.contexts && off + r < m.hist_end;
      expect(in || !counts || (got & 7) == 0, "a row outside the range sees", r, n, k_len);
    }
  }
  expect(VisibleBits(p, m, RowSpan{0, 0, 0, 0}, false, 0, 0) == 0, "no such row", q_len, k_len, 0);
}

void every_structured_mask() {
  for (int k_len = 1; k_len <= 40; k_len += 3) {
    for (int q_len = 1; q_len <= k_len; q_len += 2) {
      for (int left : {-1, 0, 3, 33}) {
        for (int right : {-1, 0, 2}) {
          MaskParams p;
          p.window_left = left;
          p.window_right = right;
          structured(q_len, k_len, p);
        }
      }
      for (int32_t contexts : {0, 2, 50}) {
        for (int32_t targets : {0, 1, 7}) {
          MaskParams p;
          p.window_right = 0;
          p.num_contexts = &contexts;
          p.num_targets = &targets;
          p.target_group_size = 3;
          if (targets <= k_len) structured(q_len, k_len, p);
        }
      }
    }
  }
}

// Random interval ends, some intervals empty or upside down, some past the end.
void every_func(std::mt19937& rng, int n_func, int rows, int k_len) {
  std::vector<int32_t> func(static_cast<size_t>(n_func) * rows);
  for (int32_t& end : func) end = static_cast<int32_t>(rng() % (k_len + 3));
  if (rng() % 2 == 0) {  // rows alike, so that some tiles are full
    for (size_t i = 0; i < func.size(); ++i) func[i] = func[i / rows * rows];
  }
  MaskParams p;
  p.func = func.data();
  p.n_func = n_func;
  p.func_stride = rows;
  const auto sees = [&](int r, int j) {
    bool seen = j < func[r];
    for (int i = 1; i + 1 < n_func; i += 2) {
      seen |= j >= func[i * rows + r] && j < func[(i + 1) * rows + r];
    }
    return seen;
  };
  const SeqMask m = SequenceMask(p, 0, k_len);
  FuncSummary summaries[kFuncSummaries];
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < (n_func + 1) / 2; ++i) {
      FuncSummary& s = summaries[i < kFuncSummaries ? i : kFuncSummaries - 1];
      s.Add(i == 0 ? 0 : func[(2 * i - 1) * rows + r], func[2 * i * rows + r]);
      if (i >= kFuncSummaries - 1 && (n_func + 1) / 2 > kFuncSummaries) s.lo_max = INT_MAX;
    }
    const uint32_t got = VisibleBits(p, m, RowSpan{0, 0, 0, 0}, true, r, 2);
    for (int j = 2; j < 34; ++j) {
      expect((got >> (j - 2) & 1) == (j < k_len && sees(r, j) ? 1u : 0u), "wrong func word", r, j,
             n_func);
    }
    expect(VisibleBits(p, m, RowSpan{0, 9, 0, 0}, false, r, 0) == 0, "no such row", r, 0, n_func);
  }
  for (int n0 = 0; n0 < k_len; ++n0) {
    for (int n1 = n0 + 1; n1 <= k_len; n1 += 4) {
      bool any = false, all = true;
      for (int r = 0; r < rows; ++r) {
        bool row_any = false, row_all = true;
        for (int j = n0; j < n1; ++j) {
          row_any |= sees(r, j);
          row_all &= sees(r, j);
        }
        expect(RowSeesFunc(p, r, n0, n1).any == row_any, "a row sees or not", r, n0, n1);
        expect(!RowSeesFunc(p, r, n0, n1).all || row_all, "a row does not see all", r, n0, n1);
        any |= row_any;
        all &= row_all;
      }
      const TileKind kind = FuncTile(p, summaries, n0, n1);
      expect(kind != TileKind::kEmpty || !any, "a tile is not empty", n0, n1, n_func);
      expect(kind != TileKind::kFull || all, "a tile is not full", n0, n1, n_func);
    }
  }
}

}  // namespace

int main() {
  bits();
  every_structured_mask();
  std::mt19937 rng(1);
  for (int round = 0; round < 200; ++round) {
    every_func(rng, 1 + 2 * (round % 4), 1 + round % 9, 1 + round % 37);
  }
  for (int round = 0; round < 5; ++round) every_func(rng, 2 * kFuncSummaries + 5, 5, 30);
  std::printf("%lld checks, %d wrong\n", static_cast<long long>(checks), wrong);
  return wrong == 0 ? 0 : 1;
}
