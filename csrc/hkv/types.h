// File: types.h
//
// The plain types of the hash table that every engine and binding shares: the options, the evict
// strategies, what became of each key of a batch, and predicates on (key, score).
// Nothing here needs CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/hkv/allocator.h"

namespace hkv {

// What a score means, and so which key of a full bucket leaves first (the smallest score).
//   kLru         nanoseconds of the table's clock at the last write access: the device's global
//                timer, the host's steady clock, or what a loaded file made of them
//   kLfu         sum of the increments that callers passed (saturating; no increment: the maximum)
//   kEpochLru    epoch << 32 | min(nanoseconds since the table was made >> 20, 2^32 - 1)
//   kEpochLfu    epoch << 32 | min(sum of increments, 2^32 - 1)
//   kCustomized  the caller's score, verbatim
// The rules are those of nv::merlin::HashTable (HierarchicalKV).
enum class EvictStrategy : int32_t {
  kLru = 0,
  kLfu = 1,
  kEpochLru = 2,
  kEpochLfu = 3,
  kCustomized = 4,
};

// How a call makes scores.
enum class ScorePolicy : int32_t {
  kDefault = 0,     // of a call: the table's; of a table: what its evict strategy says
  kConstant = 1,    // present keys keep their scores, new ones get the given
  kAssign = 2,      // the given score
  kAccumulate = 3,  // new keys get the given score, present ones add it (as kLfu)
  kClock = 4,       // the table's clock (as kLru)
};

// What becomes of a new key whose score is below every score of its full buckets.
enum class Newcomers : uint8_t {
  kByScore = 0,  // it is refused: the greatest scores stay, whatever order they come in
  kAlways = 1,   // the smallest score leaves all the same
};

// Where a full table looks for the row that leaves for a new key.
enum class EvictFrom : uint8_t {
  kBothBuckets = 0,  // the smaller smallest score of the key's two buckets
  kHomeBucket = 1,   // the smallest score of its home bucket: faster, and more often the wrong row
};

enum class KeyType : int32_t { kInt64 = 0, kUInt64 = 1 };
enum class ValueType : int32_t {
  kFloat32 = 0,
  kFloat16 = 1,
  kBFloat16 = 2,
  kInt8 = 3,  // from here on in the header (hash_table.cuh) alone
  kUInt8 = 4,
  kInt32 = 5,
  kFloat64 = 6,
};
constexpr int kValueTypesOfLibrary = 3;

// What a writing call did with one key of the batch.
enum Status : uint8_t {
  kSkipped = 0,   // nothing to do (assign of an absent key, accum_or_assign with the other flag)
  kUpdated = 1,   // the key was present; for find_or_insert: it was found
  kInserted = 2,  // inserted into a free slot
  kEvicted = 3,   // inserted in place of the key with the smallest score, which is gone
  kRefused = 4,   // not inserted: its score is below every score of its full buckets, or their rows
                  // are locked or handed out by this call
  kLocked = 5,    // not written: lock_keys holds the row
};

struct HashTableOptions {
  uint64_t init_capacity = 0;  // rows at the start; 0: max_capacity
  uint64_t max_capacity = 0;   // rows, any positive number; the table evicts beyond it.
                               // kMaxCapacity (layout.h): it grows until memory refuses
  uint64_t max_hbm_for_vectors = UINT64_MAX;  // bytes; further rows live in pinned host memory
  uint32_t dim = 64;                          // values per row
  double max_load_factor = 0.5;  // the table doubles beyond it while it is below max_capacity
  int32_t device_id = -1;        // CUDA ordinal; -1: the current device
  ScorePolicy score_policy = ScorePolicy::kDefault;  // of the calls that say none
  uint64_t passes_from = 1 << 18;  // batches of so many keys are written in passes (passes.cuh);
                                   // from a 64th of it on equal keys are told apart (equals.cuh)
  bool api_lock = true;            // order calls from several streams (on the device, no host wait)
  Newcomers newcomers = Newcomers::kByScore;
  EvictFrom evict_from = EvictFrom::kBothBuckets;
  Allocator allocator;  // of the GPU table's memory; empty: CUDA's own
};

// Keys with (key & key_mask) == key_pattern and score_min <= score <= score_max.
struct Predicate {
  uint64_t key_mask = 0;
  uint64_t key_pattern = 0;
  uint64_t score_min = 0;
  uint64_t score_max = UINT64_MAX;
};

inline size_t SizeOf(ValueType type) {
  switch (type) {
    case ValueType::kInt8:
    case ValueType::kUInt8:
      return 1;
    case ValueType::kFloat16:
    case ValueType::kBFloat16:
      return 2;
    case ValueType::kFloat64:
      return 8;
    default:
      return 4;
  }
}

inline const char* Name(KeyType type) { return type == KeyType::kInt64 ? "int64" : "uint64"; }

inline const char* Name(ValueType type) {
  switch (type) {
    case ValueType::kFloat32:
      return "float32";
    case ValueType::kFloat16:
      return "float16";
    case ValueType::kBFloat16:
      return "bfloat16";
    case ValueType::kInt8:
      return "int8";
    case ValueType::kUInt8:
      return "uint8";
    case ValueType::kInt32:
      return "int32";
    default:
      return "float64";
  }
}

inline const char* Name(EvictStrategy strategy) {
  switch (strategy) {
    case EvictStrategy::kLru:
      return "lru";
    case EvictStrategy::kLfu:
      return "lfu";
    case EvictStrategy::kEpochLru:
      return "epoch_lru";
    case EvictStrategy::kEpochLfu:
      return "epoch_lfu";
    default:
      return "customized";
  }
}

inline const char* Name(ScorePolicy policy) {
  switch (policy) {
    case ScorePolicy::kDefault:
      return "default";
    case ScorePolicy::kConstant:
      return "constant";
    case ScorePolicy::kAssign:
      return "assign";
    case ScorePolicy::kAccumulate:
      return "accumulate";
    default:
      return "clock";
  }
}

inline const char* Name(EvictFrom from) {
  return from == EvictFrom::kBothBuckets ? "both" : "home";
}

inline const char* Name(Newcomers newcomers) {
  return newcomers == Newcomers::kByScore ? "by_score" : "always";
}

}  // namespace hkv
