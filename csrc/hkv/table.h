// File: table.h
//
// One interface over every engine (this repository's GPU table, NVIDIA HierarchicalKV, the host
// table) and every instantiation, and the factories that make one:
//
//   HashTableOptions options;
//   options.max_capacity = 1000;
//   std::unique_ptr<hkv::Table> table =
//       hkv::CreateHostTable(options, KeyType::kUInt64, ValueType::kFloat32, EvictStrategy::kLru,
//       0);
//   table->insert_or_assign(n, keys, values, nullptr, false, nullptr, nullptr);
//   table->find(n, keys, values, founds, nullptr, nullptr);
//
// Method names and meanings are those of nv::merlin::HashTable. Arrays are raw pointers in the
// engine's memory (device or host); keys and scores are 64-bit words, values rows of `dim`
// elements. `stream` is a cudaStream_t; the host table ignores it. Calls return before the work is
// done unless they return a host value. A null optional array is not written.
//
// Equal keys in one batch are allowed. Every row is written whole. insert_or_assign, assign: one of
// them stays, the others count as overwritten (the host table keeps the last); find_or_insert: one
// inserts, the others find; accum_or_assign: every delta counts; kLfu increments add up.
//
// Errors: std::invalid_argument for bad arguments, std::runtime_error for CUDA and file errors,
// each naming the call and the argument. Nothing is launched or changed before the checks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "csrc/hkv/calls.h"
#include "csrc/hkv/checks.h"
#include "csrc/hkv/types.h"

namespace hkv {

using Stream = void*;

class Table {
 public:
  virtual ~Table() = default;
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  // -- any call as a value, checked before it is done
  void Run(const Read& call, Stream stream) {
    Check(call);
    CheckPitch(call.name, call.pitch, row_bytes(), SizeOf(value_));
    Do(call, stream);
  }
  void Run(const Write& call, Stream stream) {
    Check(call, scoring());
    CheckPitch(call.name, call.pitch, row_bytes(), SizeOf(value_));
    Do(call, stream);
  }
  void Run(const Export& call, Stream stream) const {
    CheckPitch("export_batch", call.pitch, row_bytes(), SizeOf(value_));
    Do(call, stream);
  }

  // -- and for many tables at once (Segments in calls.h), in segments.h
  static void Run(const Segments& segments, const Read& call, Stream stream);
  static void Run(const Segments& segments, const Write& call, Stream stream);
  static void Run(const Segments& segments, const SegmentsExport& call, Stream stream);

  // -- the same by address, for bindings; `bytes`: of the call, as the caller knows it
  void run_write(const Write* call, uint64_t bytes, Stream stream) {
    CheckBytes("Write", bytes, sizeof(Write));
    Run(*call, stream);
  }
  void run_read_segments(const Segments* segments, const Read* call, uint64_t bytes,
                         Stream stream) {
    CheckBytes("Read", bytes, sizeof(Read));
    Run(*segments, *call, stream);
  }
  void run_write_segments(const Segments* segments, const Write* call, uint64_t bytes,
                          Stream stream) {
    CheckBytes("Write", bytes, sizeof(Write));
    Run(*segments, *call, stream);
  }
  void run_export_segments(const Segments* segments, const SegmentsExport* call, uint64_t bytes,
                           Stream stream) {
    CheckBytes("SegmentsExport", bytes, sizeof(SegmentsExport));
    Run(*segments, *call, stream);
  }
  void view_rows(RowsView* view) const { *view = rows(); }
  uint64_t address() const { return reinterpret_cast<uintptr_t>(this); }

  // -- reading
  void find(size_t n, const uint64_t* keys, void* values, bool* founds, uint64_t* scores,
            Stream stream) {
    Run(Read{"find", n, keys, Bytes(values), nullptr, founds, scores}, stream);
  }
  // Row addresses, null for absent keys. They stay valid until a call that inserts, erases or
  // moves.
  void find_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds, uint64_t* scores,
                     Stream stream) {
    CheckArray("find_pointers", "rows", n, rows);
    Run(Read{"find_pointers", n, keys, nullptr, rows, founds, scores}, stream);
  }
  // Row numbers (RowsView), kNoRow for absent keys; a number stays while its key lives, whatever
  // else is written, until the table grows or loads.
  void find_rows(size_t n, const uint64_t* keys, uint64_t* rows, bool* founds, uint64_t* scores,
                 Stream stream) {
    CheckArray("find_rows", "rows", n, rows);
    Read call{"find_rows", n, keys, nullptr, nullptr, founds, scores};
    call.row_numbers = rows;
    Run(call, stream);
  }
  // As find; the absent keys and their indices are listed, `missed_size` (zeroed by the call)
  // counts them.
  void find_missed(size_t n, const uint64_t* keys, void* values, uint64_t* missed_keys,
                   int32_t* missed_indices, uint64_t* missed_size, uint64_t* scores,
                   Stream stream) {
    CheckArray("find_missed", "missed_size", 1, missed_size);
    Run(Read{"find_missed", n, keys, Bytes(values), nullptr, nullptr, scores, missed_keys,
             missed_indices, missed_size},
        stream);
  }
  void contains(size_t n, const uint64_t* keys, bool* founds, Stream stream) {
    CheckArray("contains", "founds", n, founds);
    Run(Read{"contains", n, keys, nullptr, nullptr, founds}, stream);
  }

  // -- writing; `scores` as the strategy asks, `status` (n) of Status or null
  void find_and_update(size_t n, const uint64_t* keys, void* values, bool* founds,
                       const uint64_t* scores, uint8_t* status, Stream stream) {
    Write call = Writing("find_and_update", WriteMode::kFindAndUpdate, n, keys, scores, status);
    call.values = Bytes(values);
    call.founds = founds;
    Run(call, stream);
  }
  // Absent keys are inserted with the given rows; rows of present keys are written to `values`.
  void find_or_insert(size_t n, const uint64_t* keys, void* values, bool* founds,
                      const uint64_t* scores, uint8_t* status, Stream stream) {
    Write call = Writing("find_or_insert", WriteMode::kFindOrInsert, n, keys, scores, status);
    call.values = Bytes(values);
    call.founds = founds;
    Run(call, stream);
  }
  // New rows hold arbitrary bytes until the caller writes them. No two keys of the call get the
  // same row: one for which only rows of this call, or locked ones, are left is refused, and its
  // row is null. `lock`: every key of the batch that gets a row holds it, as by hold_keys.
  void find_or_insert_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds,
                               const uint64_t* scores, bool lock, uint8_t* status, Stream stream) {
    CheckArray("find_or_insert_pointers", "rows", n, rows);
    Write call =
        Writing("find_or_insert_pointers", WriteMode::kFindOrInsert, n, keys, scores, status);
    call.rows = rows;
    call.founds = founds;
    call.pin = lock;
    Run(call, stream);
  }
  // The same with row numbers, kNoRow for refused keys. Where evicted_keys is given, what left the
  // table is listed as insert_and_evict does, copied before its row is handed on; refused keys are
  // not. evicted_values and evicted_scores may be null.
  void find_or_insert_rows(size_t n, const uint64_t* keys, uint64_t* rows, bool* founds,
                           const uint64_t* scores, bool lock, uint64_t* evicted_keys,
                           void* evicted_values, uint64_t* evicted_scores, uint64_t* evicted_count,
                           uint8_t* status, Stream stream) {
    CheckArray("find_or_insert_rows", "rows", n, rows);
    Write call = Writing("find_or_insert_rows", WriteMode::kFindOrInsert, n, keys, scores, status);
    call.row_numbers = rows;
    call.founds = founds;
    call.pin = lock;
    call.evicted_keys = evicted_keys;
    call.evicted_values = Bytes(evicted_values);
    call.evicted_scores = evicted_scores;
    call.evicted_count = evicted_count;
    Run(call, stream);
  }
  void insert_or_assign(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
                        bool ignore_evict_strategy, uint8_t* status, Stream stream) {
    Write call = Writing("insert_or_assign", WriteMode::kInsertOrAssign, n, keys, scores, status);
    call.values = Bytes(values);
    call.verbatim = ignore_evict_strategy;
    Run(call, stream);
  }
  // The evicted rows, and the refused input rows, are appended to evicted_* (each of n entries);
  // `evicted_count` (zeroed by the call) counts them.
  void insert_and_evict(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
                        uint64_t* evicted_keys, void* evicted_values, uint64_t* evicted_scores,
                        uint64_t* evicted_count, bool ignore_evict_strategy, uint8_t* status,
                        Stream stream) {
    Write call = Writing("insert_and_evict", WriteMode::kInsertAndEvict, n, keys, scores, status);
    call.values = Bytes(values);
    call.verbatim = ignore_evict_strategy;
    call.evicted_keys = evicted_keys;
    call.evicted_values = Bytes(evicted_values);
    call.evicted_scores = evicted_scores;
    call.evicted_count = evicted_count;
    Run(call, stream);
  }
  // accums[i] and present: add the row; not accums[i] and absent: insert it; else nothing.
  void accum_or_assign(size_t n, const uint64_t* keys, const void* values_or_deltas,
                       const bool* accums, const uint64_t* scores, uint8_t* status, Stream stream) {
    Write call = Writing("accum_or_assign", WriteMode::kAccumOrAssign, n, keys, scores, status);
    call.values = Bytes(values_or_deltas);
    call.accums = accums;
    Run(call, stream);
  }
  void assign(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
              uint8_t* status, Stream stream) {
    CheckArray("assign", "values", n, values);
    Write call = Writing("assign", WriteMode::kAssign, n, keys, scores, status);
    call.values = Bytes(values);
    Run(call, stream);
  }
  void assign_values(size_t n, const uint64_t* keys, const void* values, uint8_t* status,
                     Stream stream) {
    CheckArray("assign_values", "values", n, values);
    Write call = Writing("assign_values", WriteMode::kAssign, n, keys, nullptr, status);
    call.values = Bytes(values);
    call.touch_scores = false;
    Run(call, stream);
  }
  void assign_scores(size_t n, const uint64_t* keys, const uint64_t* scores, uint8_t* status,
                     Stream stream) {
    Run(Writing("assign_scores", WriteMode::kAssign, n, keys, scores, status), stream);
  }
  void erase(size_t n, const uint64_t* keys, uint8_t* status, Stream stream) {
    Run(Writing("erase", WriteMode::kErase, n, keys, nullptr, status), stream);
  }
  // Those of the first *count keys (null: of all) whose `mask` ((n)) is true: of what an export
  // listed, the rows that a condition on their values picked.
  void erase_where(size_t n, const uint64_t* keys, const bool* mask, const uint64_t* count,
                   uint8_t* status, Stream stream) {
    CheckArray("erase_where", "mask", n, mask);
    Write call = Writing("erase_where", WriteMode::kErase, n, keys, nullptr, status);
    call.accums = mask;
    call.size = count;
    Run(call, stream);
  }
  // A held (locked) key is found as ever, but nothing overwrites, evicts, moves or erases it until
  // its last holder is gone; only who holds it writes its row, by the address. lock_keys holds keys
  // that nobody holds, hold_keys adds a holder, unlock_keys takes one away. succeeded[i]: it did.
  void lock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream stream) {
    Write call = Writing("lock_keys", WriteMode::kLock, n, keys);
    call.founds = succeeded;
    Run(call, stream);
  }
  void hold_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream stream) {
    Write call = Writing("hold_keys", WriteMode::kHold, n, keys);
    call.founds = succeeded;
    Run(call, stream);
  }
  void unlock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream stream) {
    Write call = Writing("unlock_keys", WriteMode::kUnlock, n, keys);
    call.founds = succeeded;
    Run(call, stream);
  }
  // As unlock_keys, by row numbers; kNoRow is passed over.
  void unlock_rows(size_t n, const uint64_t* rows, bool* succeeded, Stream stream) {
    Write call = Writing("unlock_rows", WriteMode::kUnlockRows, n, nullptr);
    call.row_numbers = const_cast<uint64_t*>(rows);
    call.founds = succeeded;
    Run(call, stream);
  }

  // -- the slots [offset, offset + n) of capacity(): live keys, in no particular order
  void export_batch(size_t n, size_t offset, uint64_t* count, uint64_t* keys, void* values,
                    uint64_t* scores, Stream stream) {
    export_batch_if(Predicate(), n, offset, count, keys, values, scores, stream);
  }
  void export_batch_if(const Predicate& predicate, size_t n, size_t offset, uint64_t* count,
                       uint64_t* keys, void* values, uint64_t* scores, Stream stream) {
    Run(Export{offset, offset + n, predicate, keys, Bytes(values), scores, count}, stream);
  }

  // -- the table as a whole
  virtual uint64_t erase_if(const Predicate& predicate, Stream stream) = 0;
  virtual void clear(Stream stream) = 0;
  virtual uint64_t size(Stream stream) const = 0;
  virtual uint64_t size_if(const Predicate& predicate, Stream stream) const = 0;
  virtual uint64_t locked(Stream stream) const = 0;  // rows that somebody holds
  // Where the rows are, for kernels of others; until the table grows or loads.
  virtual RowsView rows() const = 0;
  virtual uint64_t capacity() const = 0;
  double load_factor(Stream stream) const {
    return static_cast<double>(size(stream)) / static_cast<double>(capacity());
  }
  // Grows to at least `capacity` rows (at most max_capacity()); a smaller number does nothing.
  virtual void reserve(uint64_t capacity, Stream stream) = 0;
  // The table evicts beyond so many rows from now on, and grows up to them: capacity() ...
  // kMaxCapacity.
  virtual void set_max_capacity(uint64_t rows) = 0;
  virtual void set_global_epoch(uint64_t epoch) = 0;
  // The clock of kLru and kEpochLru scores shows `ns` from now on.
  virtual void set_clock(uint64_t ns) = 0;
  // The file format is in table_file.h. load() adds the file's rows with their scores and returns
  // how many of them are in the table; the file is checked wholly before the table is changed. Rows
  // that find no room otherwise move others; where all together are too many, the greatest scores
  // stay. The clock (and the epoch) goes on behind the file's: every later write is newer.
  virtual uint64_t save(const std::string& path, Stream stream) const = 0;
  virtual uint64_t load(const std::string& path, Stream stream) = 0;
  virtual void synchronize(Stream stream) const = 0;

  uint64_t max_capacity() const { return max_capacity_; }
  uint32_t dim() const { return options_.dim; }
  int32_t device() const { return options_.device_id; }  // CUDA ordinal, -1 for the host table
  KeyType key_type() const { return key_; }
  ValueType value_type() const { return value_; }
  EvictStrategy evict_strategy() const { return strategy_; }
  ScorePolicy score_policy() const { return options_.score_policy; }
  uint64_t row_bytes() const { return uint64_t{options_.dim} * SizeOf(value_); }
  const char* engine() const { return engine_; }  // "native", "upstream" or "host"

 protected:
  // `options` as CheckedOptions gave them.
  Table(const HashTableOptions& options, KeyType key, ValueType value, EvictStrategy strategy,
        const char* engine)
      : options_(options),
        max_capacity_(options.max_capacity),
        key_(key),
        value_(value),
        strategy_(strategy),
        engine_(engine) {}

  Scoring scoring() const { return {strategy_, options_.score_policy}; }
  ScoreRule RuleOf(const Write& call) const {
    return hkv::RuleOf(call, strategy_, options_.score_policy);
  }

  const HashTableOptions options_;  // but for max_capacity, which may change:
  std::atomic<uint64_t> max_capacity_;

 private:
  virtual void Do(const Read& call, Stream stream) = 0;
  virtual void Do(const Write& call, Stream stream) = 0;
  virtual void Do(const Export& call, Stream stream) const = 0;
  // Of the first table, for all of them; pitches are not 0.
  virtual void DoAll(const Segments& segments, const Read& call, Stream stream) = 0;
  virtual void DoAll(const Segments& segments, const Write& call, Stream stream) = 0;
  virtual void DoAll(const Segments& segments, const SegmentsExport& call, Stream stream) const = 0;

  static uint64_t CheckedPitch(const Segments& segments, const char* call, uint64_t pitch);
  static void CheckBytes(const char* what, uint64_t bytes, uint64_t expected) {
    accel::CheckArgument(bytes == expected, what, " has ", bytes, " bytes, not ", expected);
  }
  static Write Writing(const char* name, WriteMode mode, size_t n, const uint64_t* keys,
                       const uint64_t* scores = nullptr, uint8_t* status = nullptr) {
    Write call;
    call.name = name;
    call.mode = mode;
    call.n = n;
    call.keys = keys;
    call.scores = scores;
    call.status = status;
    return call;
  }
  static char* Bytes(const void* rows) { return static_cast<char*>(const_cast<void*>(rows)); }

  const KeyType key_;
  const ValueType value_;
  const EvictStrategy strategy_;
  const char* const engine_;
};

// A table on the GPU: one of the instantiations of instances.bzl.
std::unique_ptr<Table> CreateDeviceTable(const HashTableOptions& options, KeyType key,
                                         ValueType value, EvictStrategy strategy);

// The same table in host memory, any strategy; `num_threads` 0: one per core.
std::unique_ptr<Table> CreateHostTable(const HashTableOptions& options, KeyType key,
                                       ValueType value, EvictStrategy strategy, int num_threads);

}  // namespace hkv

#include "csrc/hkv/segments.h"
