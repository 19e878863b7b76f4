// File: tiers.h
//
// What moves rows between a set of tables and the one behind it: no torch, no Python. As in
// dynamicemb.h every function runs on the GPU or on the host and returns a cudaError_t, counts stay
// where the data is, and what there is nothing to do for costs a launch and no more.
#pragma once

#include "csrc/dynamicemb/dynamicemb.h"

namespace accel::dynamicemb {

// Lists of some tables, that of table t from entry offsets[t] on, each with a key, a score and a
// row.
struct Lists {
  const int64_t *keys = nullptr, *scores = nullptr;
  const void* rows = nullptr;
};

// The lists one behind another, without gaps: that of table t from entry ends[t] on. n: entries
// that there is room for; row_bytes: a multiple of 16.
struct TightenArgs {
  int64_t n = 0, tables = 0, row_bytes = 0;
  const int64_t *offsets = nullptr, *ends = nullptr;  // (tables + 1)
  Lists lists;
  int64_t *keys = nullptr, *scores = nullptr;
  void* rows = nullptr;  // null: those stay
};
int Tighten(const Where& where, const TightenArgs& args);

// The rows of the lists are copied to the addresses `to` (n), in the order of Tighten; 0: not that.
struct LowerArgs {
  TightenArgs lists;  // its results are not looked at
  const int64_t* to = nullptr;
  const int64_t* again = nullptr;  // (n) not 0: the key is back already where it left
};

// The keys that got no row, with their places in the batch: of table t from entry ends[t] on.
struct RefusedArgs {
  int64_t n = 0, tables = 0;
  const int64_t* offsets = nullptr;                  // (tables + 1) of keys
  const int64_t *keys = nullptr, *scores = nullptr;  // (n); scores may be null
  const int64_t* rows = nullptr;                     // (n) addresses; 0: refused
  int64_t *places = nullptr, *some_keys = nullptr;   // (n)
  int64_t* some_scores = nullptr;                    // (n) or null
  int64_t *ends = nullptr, *count = nullptr;         // (tables + 1), (1)
  void* scratch = nullptr;
};
size_t RefusedScratch(int64_t n);
int Refused(const Where& where, const RefusedArgs& args);

// Rows that are new by their status (2 or 3) and that `below` has an address for are copied from
// there, and count as found: now[i] is 1 for them and status[i] for the others.
struct TakeArgs {
  int64_t n = 0, row_bytes = 0;                     // row_bytes: a multiple of 16
  const int64_t *below = nullptr, *rows = nullptr;  // (n) addresses
  const uint8_t* status = nullptr;                  // (n) of the hash table
  uint8_t* now = nullptr;                           // (n)
};
int Take(const Where& where, const TakeArgs& args);

// Both ways at once. The rows of keys that are back are lowered first, as Take reads them.
int Exchange(const Where& where, const LowerArgs& lower, const TakeArgs& take);

// rows[places[i]] = found_rows[i], and so the status, for i < *count.
struct PlaceArgs {
  int64_t n = 0;
  const int64_t *places = nullptr, *count = nullptr, *found_rows = nullptr;
  const uint8_t* found_status = nullptr;
  int64_t* rows = nullptr;
  uint8_t* status = nullptr;
};
int Place(const Where& where, const PlaceArgs& args);

}  // namespace accel::dynamicemb
