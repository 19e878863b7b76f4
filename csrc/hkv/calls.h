// File: calls.h
//
// One call on the table is one value: Read looks keys up, Write changes the table by key, Export
// walks over its slots. The kernels, the host table, Table's named methods and what binds them to
// other languages hand these on as they are: plain structs of sizes and pointers, the arrays in the
// memory of the table (device or host). What a call does not want is null or left alone.
#pragma once

#include <cstdint>

#include "csrc/hkv/types.h"

namespace hkv {

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
};

enum class WriteMode : int32_t {
  kInsertOrAssign,
  kInsertAndEvict,
  kFindOrInsert,
  kAccumOrAssign,
  kAssign,         // present keys: write values and / or scores
  kFindAndUpdate,  // present keys: read values, touch scores
  kErase,
  kLock,
  kUnlock,
};

// Whether absent keys are inserted.
constexpr bool Inserts(WriteMode mode) {
  return mode == WriteMode::kInsertOrAssign || mode == WriteMode::kInsertAndEvict ||
         mode == WriteMode::kFindOrInsert || mode == WriteMode::kAccumOrAssign;
}

// Whether the values of present keys are read rather than written.
constexpr bool ReadsValues(WriteMode mode) {
  return mode == WriteMode::kFindOrInsert || mode == WriteMode::kFindAndUpdate;
}

struct Write {
  const char* name = nullptr;  // of the call, for errors
  WriteMode mode = WriteMode::kInsertOrAssign;
  bool verbatim = false;     // scores are stored as given, whatever the strategy
  bool touch_scores = true;  // false: scores stay
  bool pin = false;          // leave every row locked, as kLock does
  uint64_t n = 0;
  const uint64_t* keys = nullptr;      // (n)
  const uint64_t* scores = nullptr;    // (n) or null
  char* values = nullptr;              // (n, dim) or null; read, except for found keys of a find
  const bool* accums = nullptr;        // (n), kAccumOrAssign
  void** rows = nullptr;               // (n) or null: row addresses instead of values
  bool* founds = nullptr;              // (n) or null; kLock, kUnlock: the key's state was changed
  uint64_t* out_scores = nullptr;      // (n) or null: the scores after the call
  uint8_t* status = nullptr;           // (n) of Status, or null
  uint64_t* evicted_keys = nullptr;    // kInsertAndEvict: (n) each, the rows that left and those
  char* evicted_values = nullptr;      // that were refused
  uint64_t* evicted_scores = nullptr;  // or null
  uint64_t* evicted_count = nullptr;   // (1), zeroed by the call
};

// The live keys of the slots [begin, end) of the capacity that match, in no particular order.
struct Export {
  uint64_t begin = 0, end = 0;
  Predicate predicate;
  uint64_t* keys = nullptr;  // (end - begin) each, or null
  char* values = nullptr;    // (end - begin, dim)
  uint64_t* scores = nullptr;
  uint64_t* count = nullptr;  // (1), zeroed by the call
};

}  // namespace hkv
