// File: bitmap.h
//
// The two layouts of pruned keys and values. Elements are 16 bits wide on a GPU; what is kept lies
// packed, and a bitmap says where it belongs.
//
// `rows`: every token keeps exactly n of its D values (n = kept). Bit c % 32 of word c / 32 is
// channel c, values follow in the order of the channels:
//
//   dense    a 0 0 b | 0 0 c 0      bitmap 0b01001001      values a b c
//   channel  0 1 2 3   4 5 6 7             76543210
//
// A block is 64 tokens of one kv head: bitmaps (64, D / 32) int32, then elsewhere values (64, n).
// Nothing has an offset or padding: token i of a block begins at i * D / 32 words and i * n values.
// With n == D there are no bitmaps.
//
// `tiles`: 64 elements are one int64, element i at bit 63 - i, set where the value is not zero.
//   keys     64 consecutive tokens of one channel   tile (token / 64) * D + channel
//   values   64 consecutive channels of one token   tile (token / 64) * D + channel / 64 * 64 +
//   token % 64
// The values of a tile are padded with zeros to a multiple of 8. `offsets` are their places within
// the head in units of two values, `starts` those of the heads in units of eight.
#pragma once

#include <cstdint>

#include "csrc/common/portable.h"

namespace accel::mustafar {

constexpr int kBlockTokens = 64;  // of a page of `rows`, and of a row of tiles
constexpr int kUnitTokens = 16;   // what a warp takes at a time
constexpr int kTile = 64;         // elements

// The place of token `token` of page `page` of head `head`, in tokens.
ACCEL_HD int64_t RowAt(int64_t page, int heads, int head, int token) {
  return (page * heads + head) * kBlockTokens + token % kBlockTokens;
}

}  // namespace accel::mustafar
