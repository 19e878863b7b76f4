// File: permute.h
//
// Rows of bags in another order, with all that their bags hold.
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

}  // namespace accel::dynamicemb
