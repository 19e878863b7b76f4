// File: table.h
//
// One virtual interface over every engine (this repository's GPU table, NVIDIA HierarchicalKV, the
// host table) and every instantiation, and the factory that makes one.
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

#include <cstdint>
#include <memory>
#include <string>

#include "csrc/hkv/types.h"

namespace hkv {

using Stream = void*;

class Table {
 public:
  virtual ~Table() = default;

  // -- reading
  virtual void find(size_t n, const uint64_t* keys, void* values, bool* founds, uint64_t* scores,
                    Stream stream) = 0;
  // Row addresses, null for absent keys. They stay valid until a call that inserts, erases or
  // moves.
  virtual void find_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds,
                             uint64_t* scores, Stream stream) = 0;
  // As find; the absent keys and their indices are listed, `missed_size` (zeroed by the call)
  // counts them.
  virtual void find_missed(size_t n, const uint64_t* keys, void* values, uint64_t* missed_keys,
                           int32_t* missed_indices, uint64_t* missed_size, uint64_t* scores,
                           Stream stream) = 0;
  virtual void contains(size_t n, const uint64_t* keys, bool* founds, Stream stream) = 0;

  // -- writing; `scores` as the strategy asks, `status` (n) of Status or null
  virtual void find_and_update(size_t n, const uint64_t* keys, void* values, bool* founds,
                               const uint64_t* scores, uint8_t* status, Stream stream) = 0;
  // Absent keys are inserted with the given rows; rows of present keys are written to `values`.
  virtual void find_or_insert(size_t n, const uint64_t* keys, void* values, bool* founds,
                              const uint64_t* scores, uint8_t* status, Stream stream) = 0;
  // New rows hold arbitrary bytes until the caller writes them. `lock`: every row is left pinned as
  // by lock_keys, so that later keys of the batch cannot evict it; null for refused keys.
  virtual void find_or_insert_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds,
                                       const uint64_t* scores, bool lock, uint8_t* status,
                                       Stream stream) = 0;
  virtual void insert_or_assign(size_t n, const uint64_t* keys, const void* values,
                                const uint64_t* scores, bool ignore_evict_strategy, uint8_t* status,
                                Stream stream) = 0;
  // The evicted rows, and the refused input rows, are appended to evicted_* (each of n entries);
  // `evicted_count` (zeroed by the call) counts them.
  virtual void insert_and_evict(size_t n, const uint64_t* keys, const void* values,
                                const uint64_t* scores, uint64_t* evicted_keys,
                                void* evicted_values, uint64_t* evicted_scores,
                                uint64_t* evicted_count, bool ignore_evict_strategy,
                                uint8_t* status, Stream stream) = 0;
  // accums[i] and present: add the row; not accums[i] and absent: insert it; else nothing.
  virtual void accum_or_assign(size_t n, const uint64_t* keys, const void* values_or_deltas,
                               const bool* accums, const uint64_t* scores, uint8_t* status,
                               Stream stream) = 0;
  virtual void assign(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
                      uint8_t* status, Stream stream) = 0;
  virtual void assign_values(size_t n, const uint64_t* keys, const void* values, uint8_t* status,
                             Stream stream) = 0;
  virtual void assign_scores(size_t n, const uint64_t* keys, const uint64_t* scores,
                             uint8_t* status, Stream stream) = 0;
  virtual void erase(size_t n, const uint64_t* keys, uint8_t* status, Stream stream) = 0;
  virtual uint64_t erase_if(const Predicate& predicate, Stream stream) = 0;
  virtual void clear(Stream stream) = 0;

  // A locked key is found as ever, but nothing overwrites, evicts or erases it until unlock_keys;
  // only the holder of its address writes it. succeeded[i]: the key's state was changed.
  virtual void lock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream stream) = 0;
  virtual void unlock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream stream) = 0;

  // -- the slots [offset, offset + n) of capacity(): live keys, in no particular order
  virtual void export_batch(size_t n, size_t offset, uint64_t* count, uint64_t* keys, void* values,
                            uint64_t* scores, Stream stream) = 0;
  virtual void export_batch_if(const Predicate& predicate, size_t n, size_t offset, uint64_t* count,
                               uint64_t* keys, void* values, uint64_t* scores, Stream stream) = 0;

  // -- the table as a whole
  virtual uint64_t size(Stream stream) const = 0;
  virtual uint64_t size_if(const Predicate& predicate, Stream stream) const = 0;
  virtual uint64_t capacity() const = 0;
  virtual uint64_t max_capacity() const = 0;
  double load_factor(Stream stream) const {
    return static_cast<double>(size(stream)) / static_cast<double>(capacity());
  }
  // Grows to at least `capacity` rows (at most max_capacity()); a smaller number does nothing.
  virtual void reserve(uint64_t capacity, Stream stream) = 0;
  virtual void set_global_epoch(uint64_t epoch) = 0;
  // The file format is in table_file.h. load() adds the file's rows with their scores and returns
  // how many of them are in the table; the file is checked wholly before the table is changed.
  virtual uint64_t save(const std::string& path, Stream stream) const = 0;
  virtual uint64_t load(const std::string& path, Stream stream) = 0;
  virtual void synchronize(Stream stream) const = 0;

  virtual uint32_t dim() const = 0;
  virtual int32_t device() const = 0;  // CUDA ordinal, -1 for the host table
  virtual KeyType key_type() const = 0;
  virtual ValueType value_type() const = 0;
  virtual EvictStrategy evict_strategy() const = 0;
  virtual const char* engine() const = 0;  // "native", "upstream" or "host"
};

// A table on the GPU: one of the eighteen instantiations of instances.bzl.
std::unique_ptr<Table> CreateDeviceTable(const HashTableOptions& options, KeyType key,
                                         ValueType value, EvictStrategy strategy);

// The same table in host memory, any strategy; `num_threads` 0: one per core.
std::unique_ptr<Table> CreateHostTable(const HashTableOptions& options, KeyType key,
                                       ValueType value, EvictStrategy strategy, int num_threads);

}  // namespace hkv
