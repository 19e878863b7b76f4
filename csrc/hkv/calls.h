// File: calls.h
//
// One call on the table is one value: Read looks keys up, Write changes the table by key, Export
// walks over its slots. The kernels, the host table, Table's named methods and what binds them to
// other languages hand these on as they are: plain structs of sizes and pointers, the arrays in the
// memory of the table (device or host). What a call does not want is null or left alone.
#pragma once

#include <cstdint>

#include "csrc/common/portable.h"
#include "csrc/hkv/types.h"

namespace hkv {

constexpr uint64_t kNoRow = UINT64_MAX;  // the row number of a key that has none

struct Read {
  const char* name = nullptr;  // of the call, for errors
  uint64_t n = 0;
  const uint64_t* keys = nullptr;     // (n)
  char* values = nullptr;             // (n, dim) or null; rows of absent keys stay as they are
  void** rows = nullptr;              // (n) or null; null pointers for absent keys
  bool* founds = nullptr;             // (n) or null
  uint64_t* scores = nullptr;         // (n) or null; scores of absent keys stay as they are
  uint64_t* missed_keys = nullptr;    // (n) or null, with the two below: the absent keys, their
  int32_t* missed_indices = nullptr;  // indices, and (1) how many: all zeroed by the call
  uint64_t* missed_size = nullptr;
  uint64_t* row_numbers = nullptr;  // (n) or null: of the rows, kNoRow for absent keys (RowsView)
  uint64_t pitch = 0;  // bytes from one row of `values` to the next; 0: rows follow each other
};

enum class WriteMode : int32_t {
  kInsertOrAssign,
  kInsertAndEvict,
  kFindOrInsert,
  kAccumOrAssign,
  kAssign,         // present keys: write values and / or scores
  kFindAndUpdate,  // present keys: read values, touch scores
  kErase,
  kLock,        // present keys that nobody holds get a holder
  kHold,        // present keys get one holder more
  kUnlock,      // held keys lose a holder
  kUnlockRows,  // as kUnlock, for the rows with these row_numbers; kNoRow is passed over
};

// Whether absent keys are inserted.
ACCEL_HD constexpr bool Inserts(WriteMode mode) {
  return mode == WriteMode::kInsertOrAssign || mode == WriteMode::kInsertAndEvict ||
         mode == WriteMode::kFindOrInsert || mode == WriteMode::kAccumOrAssign;
}

// Whether the values of present keys are read rather than written.
ACCEL_HD constexpr bool ReadsValues(WriteMode mode) {
  return mode == WriteMode::kFindOrInsert || mode == WriteMode::kFindAndUpdate;
}

struct Write {
  const char* name = nullptr;  // of the call, for errors
  WriteMode mode = WriteMode::kInsertOrAssign;
  bool verbatim = false;     // scores are stored as given, whatever the strategy
  bool touch_scores = true;  // false: scores stay
  bool pin = false;          // every key of the batch that gets a row holds it, as by kHold
  uint64_t n = 0;
  const uint64_t* keys = nullptr;      // (n)
  const uint64_t* scores = nullptr;    // (n) or null
  char* values = nullptr;              // (n, dim) or null; read, except for found keys of a find
  const bool* accums = nullptr;        // (n), kAccumOrAssign; kErase, or null: which keys
  void** rows = nullptr;               // (n) or null: row addresses instead of values
  bool* founds = nullptr;              // (n) or null; kLock ... kUnlockRows: a holder came or went
  uint64_t* out_scores = nullptr;      // (n) or null: the scores after the call
  uint8_t* status = nullptr;           // (n) of Status, or null
  uint64_t* evicted_keys = nullptr;    // kInsertAndEvict: (n) each, the rows that left and those
  char* evicted_values = nullptr;      // that were refused; kFindOrInsert, or null: what left
  uint64_t* evicted_scores = nullptr;  // or null
  uint64_t* evicted_count = nullptr;   // (1), zeroed by the call
  uint64_t* row_numbers = nullptr;     // (n) or null: row numbers (RowsView) instead of values
  ScorePolicy policy = ScorePolicy::kDefault;
  uint64_t pitch = 0;  // bytes from row to row of `values` and `evicted_values`; 0: they follow
  const uint64_t* size = nullptr;  // (1) or null: kErase looks at so many of the keys
};

// Whether rows are handed out, so that no two keys of the call may get the same one.
constexpr bool HandsOutRows(const Write& call) {
  return Inserts(call.mode) && (call.rows != nullptr || call.row_numbers != nullptr);
}

// The live keys of the slots [begin, end) of the capacity that match, in no particular order.
struct Export {
  uint64_t begin = 0, end = 0;
  Predicate predicate;
  uint64_t* keys = nullptr;  // (end - begin) each, or null
  char* values = nullptr;    // (end - begin, dim)
  uint64_t* scores = nullptr;
  uint64_t* count = nullptr;  // (1), zeroed by the call
  uint64_t pitch = 0;  // bytes from one row of `values` to the next; 0: they follow each other
};

// The rows of a table by their numbers, 0 ... capacity - 1: the same number for as long as the key
// lives and the table does not grow. Those before hbm_rows are in `hbm`, the others in `host`.
struct RowsView {
  char* hbm = nullptr;
  char* host = nullptr;   // what the table's device reaches; null: all rows are in `hbm`
  uint64_t stride = 0;    // bytes from one row to the next
  uint64_t hbm_rows = 0;  // of the host table: all
  uint64_t capacity = 0;
};

class Table;

// Many tables of one engine, device, key type and value type, each with its own capacity, dim and
// strategy: one call does for all of them what it does for one. The keys offsets[t] ...
// offsets[t + 1] - 1 of the batch are for tables[t], and so are the other arrays' entries. Rows of
// values are `pitch` bytes apart, 0 meaning those of the widest table; a narrower table's rows fill
// the front of theirs. What leaves table t is listed from entry offsets[t] on, and counted in
// evicted_count[t]. The keys behind offsets[count], if there are any, are left alone.
struct Segments {
  uint64_t count = 0;
  Table* const* tables = nullptr;     // (count), in host memory
  const uint64_t* offsets = nullptr;  // (count + 1), ascending, in the memory of the tables
};

// Of table t the live keys of the slots [begin[t], end[t]) that match, listed from entry
// sum over s < t of (end[s] - begin[s]) on, and counted in count[t].
struct SegmentsExport {
  const uint64_t* begin = nullptr;  // (count of tables), in host memory
  const uint64_t* end = nullptr;
  Export out;  // its begin and end are not looked at; count: (count of tables)
};

}  // namespace hkv
