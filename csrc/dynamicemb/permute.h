// File: permute.h
//
// Rows of bags in another order, with all that their bags hold; rows of numbers likewise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/dynamicemb/dynamicemb.h"

namespace accel::dynamicemb {

struct Moved {
  int64_t bytes = 0;  // of a value: 1, 2, 4 or 8; 0: there are none
  const void* in = nullptr;
  void* out = nullptr;
};

struct PermuteArgs {
  int64_t rows = 0, new_rows = 0, bags = 0, n = 0;  // n: values of the new rows
  bool wide = false;                                // lengths are int64, not int32
  const int32_t* permute = nullptr;  // (new_rows): a row for each, any number of times
  const void* lengths = nullptr;     // (rows, bags)
  void* new_lengths = nullptr;       // (new_rows, bags)
  Moved values, weights;
  void* scratch = nullptr;
};
size_t PermuteScratch(const PermuteArgs& args);
int Permute(const Where& where, const PermuteArgs& args);

// Whole rows, times a factor where they are float32: to[i] = from[order[i]], or to[order[i]] =
// from[i].
struct MoveRowsArgs {
  int64_t rows = 0, row_bytes = 0;  // of the result
  const void* from = nullptr;
  const void* order = nullptr;  // (rows) int32 or int64
  bool wide = false;            // order is int64
  bool scatter = false;
  float factor = 1;
  void* to = nullptr;
};
int MoveRows(const Where& where, const MoveRowsArgs& args);

// (n + 1) sums of the lengths before each.
size_t EndsScratch(int64_t n);
int Ends(const Where& where, int64_t n, const int64_t* lengths, int64_t* ends, void* scratch);

}  // namespace accel::dynamicemb
