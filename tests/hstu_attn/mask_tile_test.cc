// File: mask_tile_test.cc
//
// mask.h by brute force on every small sequence: a row's spans against the definition of the mask,
// one pair (i, j) at a time, and the verdict on every tile against its pairs.

#include <climits>
#include <cstdint>
#include <cstdio>

#include "csrc/hstu_attn/mask.h"

namespace {

using accel::hstu::SeqMask;
using accel::hstu::TileKind;

constexpr int32_t kMaxLen = 13;

// The definition. Contexts and targets come with the causal window only.
bool sees(const SeqMask& m, int32_t i, int32_t j) {
  if (i >= m.hist_end && j >= m.hist_end) {
    const bool same_group = (i - m.hist_end) / m.group_size == (j - m.hist_end) / m.group_size;
    if (m.hist_end < m.k_len && !same_group) return false;
  }
  if (i < m.contexts && j < m.hist_end) return true;
  const int64_t distance = static_cast<int64_t>(j) - i;
  return -distance <= m.left && distance <= m.right;
}

struct Count {
  int64_t masks = 0, pairs = 0, tiles = 0, wrong = 0;
};

void report(Count& count, const SeqMask& m, const char* what, int32_t a, int32_t b, int32_t c,
            int32_t d) {
  if (++count.wrong > 10) return;
  std::printf("k_len %d, window (%d, %d), contexts %d, hist_end %d, groups of %d: %s %d %d %d %d\n",
              m.k_len, m.left, m.right, m.contexts, m.hist_end, m.group_size, what, a, b, c, d);
}

void check(const SeqMask& m, Count& count) {
  ++count.masks;
  for (int32_t i = 0; i < m.k_len; ++i) {
    for (int32_t j = 0; j < m.k_len; ++j, ++count.pairs) {
      if (m.row(i).sees(j) != sees(m, i, j)) report(count, m, "wrong pair", i, j, 0, 0);
    }
  }
  for (int32_t m0 = 0; m0 < m.k_len; ++m0) {
    for (int32_t m1 = m0 + 1; m1 <= m.k_len; ++m1) {
      for (int32_t n0 = 0; n0 < m.k_len; ++n0) {
        for (int32_t n1 = n0 + 1; n1 <= m.k_len; ++n1, ++count.tiles) {
          bool any = false, all = true;
          for (int32_t i = m0; i < m1; ++i) {
            for (int32_t j = n0; j < n1; ++j) {
              const bool seen = sees(m, i, j);
              any |= seen;
              all &= seen;
            }
          }
          const TileKind kind = m.tile(m0, m1, n0, n1);
          // Partial is always allowed, but costs time where it is not needed: it has to be exact.
          const TileKind exact = !any  ? TileKind::kEmpty
                                 : all ? TileKind::kFull
                                       : TileKind::kPartial;
          if (kind != exact) report(count, m, "wrong tile", m0, m1, n0, n1);
        }
      }
    }
  }
}

}  // namespace

int main() {
  Count count;
  for (int32_t k_len = 1; k_len <= kMaxLen; ++k_len) {
    for (int32_t left = -1; left <= k_len; ++left) {
      for (int32_t right = -1; right <= k_len; ++right) {
        check({k_len, left < 0 ? INT_MAX : left, right < 0 ? INT_MAX : right, 0, k_len, 1}, count);
      }
    }
    for (int32_t contexts = 0; contexts <= k_len + 1; ++contexts) {
      for (int32_t targets = 0; targets <= k_len; ++targets) {
        for (int32_t group = 1; group <= targets + 1; ++group) {
          check({k_len, INT_MAX, 0, contexts, k_len - targets, group}, count);
        }
      }
    }
  }
  std::printf("%lld masks, %lld pairs, %lld tiles, %lld wrong\n",
              static_cast<long long>(count.masks), static_cast<long long>(count.pairs),
              static_cast<long long>(count.tiles), static_cast<long long>(count.wrong));
  return count.wrong == 0 ? 0 : 1;
}
