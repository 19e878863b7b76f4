// File: upstream_adapter.cuh
//
// NVIDIA HierarchicalKV (nv::merlin::HashTable) as a Table. What upstream does not have is refused
// by name before anything is launched; docs/hkv_upstream.md says call by call what differs. A batch
// may hold equal keys: upstream is told that keys are not unique.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <memory>
#include <mutex>
#include <string>
#include <type_traits>

#include "csrc/common/cuda_memory.h"
#include "csrc/common/portable.h"
#include "csrc/hkv/on_device.h"
#include "csrc/hkv/table.h"
#include "csrc/hkv/upstream_locks.h"
#include "merlin_hashtable.cuh"

namespace hkv {

// A predicate as upstream's kernels take one. They hand every slot to it, those of no key as well:
// the four greatest words mark empty, erased and locked slots.
struct UpstreamPredicate {
  Predicate p;

  __forceinline__ __device__ bool Holds(uint64_t key, uint64_t score) const {
    constexpr uint64_t kFirstMark = UINT64_MAX - 3;
    return key < kFirstMark && (key & p.key_mask) == p.key_pattern && score >= p.score_min &&
           score <= p.score_max;
  }
  template <uint32_t kGroup, class Key, class Value, class Score, class Group>
  __forceinline__ __device__ bool operator()(const Key& key, const Value*, const Score& score,
                                             Group&) const {
    return Holds(static_cast<uint64_t>(key), score);
  }
};

// The same where upstream takes the name of a template and two words for it: one is its address.
template <class Key, class Score>
struct UpstreamPredicateAt {
  __forceinline__ __device__ bool operator()(const Key& key, const Score& score, const Key& address,
                                             const Score&) const {
    const auto* at = reinterpret_cast<const UpstreamPredicate*>(static_cast<uint64_t>(address));
    return at->Holds(static_cast<uint64_t>(key), score);
  }
};

template <class Key, class Value, class Score, EvictStrategy kStrategy>
class UpstreamTable final : public Table {
  using Upstream = nv::merlin::HashTable<Key, Value, Score, static_cast<int>(kStrategy)>;

 public:
  explicit UpstreamTable(const HashTableOptions& options)
      : Table(Rounded(OnDevice(options)), KeyTypeOf<Key>(), ValueTypeOf<Value>(), kStrategy,
              "upstream") {
    if (options_.score_policy != ScorePolicy::kDefault) Lacks("score policies");
    if (options_.newcomers != Newcomers::kByScore) Lacks("newcomers other than by_score");
    if (options_.evict_from != EvictFrom::kBothBuckets) Lacks("evict_from other than both");
    if (options_.allocator.allocate != nullptr) Lacks("allocator of the caller's");
    nv::merlin::HashTableOptions upstream;
    upstream.init_capacity = options_.init_capacity;
    upstream.max_capacity = options_.max_capacity;
    upstream.max_hbm_for_vectors = options_.max_hbm_for_vectors;
    upstream.dim = options_.dim;
    upstream.max_load_factor = static_cast<float>(options_.max_load_factor);
    upstream.device_id = options_.device_id;
    upstream.api_lock = options_.api_lock;
    Named("HashTable", [&] {
      table_ = std::make_unique<Upstream>();
      table_->init(upstream);
      table_->set_global_epoch(0);  // upstream has none until it is told; every other engine has 0
    });
  }
  ~UpstreamTable() override {
    int previous = 0;
    cudaGetDevice(&previous);
    cudaSetDevice(options_.device_id);
    table_.reset();
    cudaSetDevice(previous);
  }

  uint64_t erase_if(const Predicate& predicate, Stream on) override {
    const cudaStream_t stream = CudaStream(on);
    return Named("erase_if", [&] {
      const accel::Buffer at = OnStream(predicate, stream);
      return table_->template erase_if<UpstreamPredicateAt>(Address(at), 0, stream);
    });
  }
  void clear(Stream stream) override {
    const std::lock_guard<std::mutex> guard(locks_mutex_);
    Named("clear", [&] { table_->clear(CudaStream(stream)); });
    locks_.Clear();
  }
  uint64_t size(Stream stream) const override {
    return Named("size", [&] { return table_->size(CudaStream(stream)); });
  }
  uint64_t size_if(const Predicate& predicate, Stream on) const override {
    const cudaStream_t stream = CudaStream(on);
    return Named("size_if", [&] {
      const accel::Buffer at = OnStream(predicate, stream);
      const accel::Buffer counter(sizeof(size_t), "a counter", stream);
      table_->template size_if<UpstreamPredicateAt>(Address(at), 0, counter.As<size_t>(), stream);
      size_t count = 0;
      accel::CheckCuda(cudaMemcpyAsync(&count, counter.As<size_t>(), sizeof(size_t),
                                       cudaMemcpyDeviceToHost, stream),
                       "counting");
      accel::CheckCuda(cudaStreamSynchronize(stream), "counting");
      return count;
    });
  }
  uint64_t capacity() const override { return table_->capacity(); }
  void reserve(uint64_t capacity, Stream stream) override {
    CheckReserve(capacity, max_capacity());
    Named("reserve", [&] { table_->reserve(capacity, CudaStream(stream)); });
  }
  // Rounded up to where the table's doublings lead.
  void set_max_capacity(uint64_t rows) override {
    const std::lock_guard<std::mutex> guard(locks_mutex_);
    CheckMaxCapacity(rows, capacity());
    if (locks_.size() > 0) {
      FailArgument("set_max_capacity: ", locks_.size(),
                   " keys are locked; the upstream engine locks keys of a table that cannot grow");
    }
    HashTableOptions reached = options_;
    reached.init_capacity = capacity();
    reached.max_capacity = rows;
    reached = Rounded(reached);
    if ((reached.max_capacity & (reached.max_capacity - 1)) != 0) {
      FailArgument("set_max_capacity: capacity is ", rows, " and that of now ", capacity(),
                   "; the upstream engine takes powers of two");
    }
    Named("set_max_capacity", [&] { table_->set_max_capacity(reached.max_capacity); });
    max_capacity_ = reached.max_capacity;
  }
  uint64_t locked(Stream) const override {
    const std::lock_guard<std::mutex> guard(locks_mutex_);
    return locks_.size();
  }
  RowsView rows() const override { Lacks("rows"); }
  void set_global_epoch(uint64_t epoch) override { table_->set_global_epoch(epoch); }
  void set_clock(uint64_t) override { Lacks("set_clock"); }
  uint64_t save(const std::string&, Stream) const override { Lacks("save"); }
  uint64_t load(const std::string&, Stream) override { Lacks("load"); }
  void synchronize(Stream stream) const override {
    Named("synchronize", [&] {
      accel::CheckCuda(cudaStreamSynchronize(CudaStream(stream)), "waiting for the stream");
    });
  }

 private:
  void DoAll(const Segments&, const Read&, Stream) override { Lacks("calls over many tables"); }
  void DoAll(const Segments&, const Write&, Stream) override { Lacks("calls over many tables"); }
  void DoAll(const Segments&, const SegmentsExport&, Stream) const override {
    Lacks("calls over many tables");
  }

  void Do(const Read& c, Stream on) override {
    CheckBatch(c.name, c.n);
    CheckPitch(c.pitch);
    if (c.row_numbers != nullptr) Lacks("row numbers");
    const cudaStream_t stream = CudaStream(on);
    const auto* keys = reinterpret_cast<const Key*>(c.keys);
    Named(c.name, [&] {
      if (c.missed_size == nullptr) {
        Lookup(c.n, keys, Values(c.values), c.rows, c.founds, c.scores, stream);
        return;
      }
      CheckArray(c.name, "values", c.n, c.values);
      Zero(c.missed_size, 1, stream);  // of which upstream counts in the lower half
      table_->find(c.n, keys, Values(c.values), reinterpret_cast<Key*>(c.missed_keys),
                   c.missed_indices, reinterpret_cast<int*>(c.missed_size), c.scores, stream);
    });
  }

  void Do(const Write& c, Stream on) override {
    CheckWrite(c);
    if (c.mode == WriteMode::kInsertAndEvict) {
      Named(c.name, [&] { Zero(c.evicted_count, 1, CudaStream(on)); });
    }
    if (c.n > 0) Named(c.name, [&] { Change(c, CudaStream(on)); });
  }

  void Do(const Export& c, Stream on) const override {
    CheckRange(c, capacity());
    CheckBatch("export_batch", c.end - c.begin);
    CheckPitch(c.pitch);
    CheckArray("export_batch", "keys", c.end - c.begin, c.keys);
    CheckArray("export_batch", "values", c.end - c.begin, c.values);
    UpstreamPredicate predicate{c.predicate};
    Named("export_batch", [&] {
      table_->export_batch_if_v2(predicate, c.end - c.begin, c.begin, Counter(c.count),
                                 reinterpret_cast<Key*>(c.keys), Values(c.values), c.scores,
                                 CudaStream(on));
    });
  }

  // Any of values, rows, founds and scores may be null; upstream needs founds, and one of the first
  // two to tell scores.
  void Lookup(uint64_t n, const Key* keys, Value* values, void** rows, bool* founds,
              uint64_t* scores, cudaStream_t stream) {
    if (n == 0) return;
    accel::Buffer found, row;
    if (founds == nullptr) {
      found = accel::Buffer(n, "founds", stream);
      founds = found.As<bool>();
    }
    if (values != nullptr) return table_->find(n, keys, values, founds, scores, stream);
    if (rows == nullptr && scores == nullptr) return table_->contains(n, keys, founds, stream);
    if (rows == nullptr) {
      row = accel::Buffer(n * sizeof(void*), "addresses of rows", stream);
      rows = row.As<void*>();
    }
    table_->find(n, keys, reinterpret_cast<Value**>(rows), founds, scores, stream);
  }

  void Change(const Write& c, cudaStream_t stream) {
    const auto* keys = reinterpret_cast<const Key*>(c.keys);
    Value* const values = Values(c.values);
    switch (c.mode) {
      case WriteMode::kInsertOrAssign:
        return table_->insert_or_assign(c.n, keys, values, c.scores, stream, false, c.verbatim);
      case WriteMode::kInsertAndEvict:
        return table_->insert_and_evict(c.n, keys, values, c.scores,
                                        reinterpret_cast<Key*>(c.evicted_keys),
                                        Values(c.evicted_values), c.evicted_scores,
                                        Counter(c.evicted_count), stream, false, false);
      case WriteMode::kFindOrInsert:
        if (c.rows != nullptr) return FindOrInsertPointers(c, keys, stream);
        if (c.founds != nullptr) table_->contains(c.n, keys, c.founds, stream);
        return table_->find_or_insert(c.n, keys, values, const_cast<uint64_t*>(c.scores), stream,
                                      false);
      case WriteMode::kAccumOrAssign:
        return table_->accum_or_assign(c.n, keys, values, c.accums, c.scores, stream);
      case WriteMode::kAssign:
        if (!c.touch_scores) return table_->assign_values(c.n, keys, values, stream, false);
        if (values == nullptr) return table_->assign_scores(c.n, keys, c.scores, stream, false);
        return table_->assign(c.n, keys, values, c.scores, stream, false);
      case WriteMode::kFindAndUpdate:  // upstream's own takes distinct keys alone, and no values
        table_->assign_scores(c.n, keys, c.scores, stream, false);
        return Lookup(c.n, keys, values, c.rows, c.founds, nullptr, stream);
      case WriteMode::kErase:
        return table_->erase(c.n, keys, stream);
      case WriteMode::kLock:
        return Lock(c, keys, stream);
      case WriteMode::kUnlock:
        return Unlock(c, keys, stream);
      default:
        Lacks(c.name);
    }
  }

  void FindOrInsertPointers(const Write& c, const Key* keys, cudaStream_t stream) {
    auto** const rows = reinterpret_cast<Value**>(c.rows);
    auto* const scores = const_cast<uint64_t*>(c.scores);
    const accel::Buffer found(c.founds == nullptr ? c.n : 0, "founds", stream);
    bool* const founds = c.founds == nullptr ? found.As<bool>() : c.founds;
    Zero(c.rows, c.n, stream);  // upstream leaves those of its marks as they are
    Zero(founds, c.n, stream);
    if (!c.pin) return table_->find_or_insert(c.n, keys, rows, founds, scores, stream, false);
    const std::lock_guard<std::mutex> guard(locks_mutex_);
    locks_.CheckFree(c.name, c.n, keys, stream);
    const accel::Buffer places(c.n * sizeof(Key*), "addresses of keys", stream);
    Zero(places.As<Key*>(), c.n, stream);
    table_->find_or_insert(c.n, keys, rows, founds, scores, stream, true, false, places.As<Key*>());
    locks_.Remember(c.n, keys, places.As<Key*>(), stream);
  }

  void Lock(const Write& c, const Key* keys, cudaStream_t stream) {
    const std::lock_guard<std::mutex> guard(locks_mutex_);
    const accel::Buffer places(c.n * sizeof(Key*), "addresses of keys", stream);
    // Upstream's lock is a write that reads a score, where the strategy has given ones: the same
    // score again, or an increment of nothing.
    constexpr bool kGiven =
        kStrategy == EvictStrategy::kCustomized || kStrategy == EvictStrategy::kEpochLfu;
    const accel::Buffer score(kGiven ? c.n * 8 : 0, "scores", stream);
    auto* const scores = score.As<uint64_t>();
    if (kGiven) Zero(scores, c.n, stream);
    if (kStrategy == EvictStrategy::kCustomized) {
      Lookup(c.n, keys, nullptr, nullptr, nullptr, scores, stream);
    }
    table_->lock_keys(c.n, keys, places.As<Key*>(), c.founds, stream, scores);
    locks_.Remember(c.n, keys, places.As<Key*>(), stream);
  }

  void Unlock(const Write& c, const Key* keys, cudaStream_t stream) {
    const std::lock_guard<std::mutex> guard(locks_mutex_);
    const accel::Buffer places(c.n * sizeof(Key*), "addresses of keys", stream);
    locks_.Take(c.n, keys, places.As<Key*>(), stream);
    table_->unlock_keys(c.n, places.As<Key*>(), keys, c.founds, stream);
  }

  // -- what upstream does not do, or does only so

  static HashTableOptions Rounded(HashTableOptions options) {
    constexpr uint64_t kBucket = 128;
    if (options.init_capacity < kBucket) {
      FailArgument("init_capacity is ", options.init_capacity, " and max_capacity is ",
                   options.max_capacity, "; the upstream engine takes ", kBucket, " rows and more");
    }
    uint64_t rows = accel::CeilDiv(options.max_capacity, kBucket) * kBucket;
    if (2 * options.init_capacity <= rows) {  // it doubles from a power of two
      const uint64_t least = rows;
      for (rows = kBucket; rows < least; rows *= 2) {
      }
    }
    options.max_capacity = rows;
    return options;
  }

  static void CheckBatch(const char* call, uint64_t n) {
    if (n > INT32_MAX) {
      FailArgument(call, ": n is ", n, "; the upstream engine takes at most ", INT32_MAX);
    }
  }

  void CheckPitch(uint64_t pitch) const {
    if (pitch != 0 && pitch != row_bytes()) Lacks("rows of values with gaps between them");
  }

  void CheckWrite(const Write& c) const {
    if (c.mode == WriteMode::kErase && c.accums != nullptr) Lacks("erase_where");
    CheckBatch(c.name, c.n);
    CheckPitch(c.pitch);
    if (c.status != nullptr) Lacks("statuses");
    if (c.row_numbers != nullptr) Lacks("row numbers");
    if (c.policy != ScorePolicy::kDefault) Lacks("score policies");
    if (c.mode == WriteMode::kHold) Lacks("hold_keys");
    if (c.mode == WriteMode::kFindOrInsert && c.evicted_keys != nullptr) {
      Lacks("find_or_insert that reports evicted keys");
    }
    if (c.out_scores != nullptr) Lacks("scores after a write");
    const bool increments =
        kStrategy == EvictStrategy::kLfu || kStrategy == EvictStrategy::kEpochLfu;
    const bool touches = c.touch_scores && c.mode < WriteMode::kErase;
    if (increments && touches && c.n > 0 && c.scores == nullptr) {
      FailArgument(c.name, ": scores is null; with evict strategy ", Name(kStrategy),
                   " the upstream engine needs increments");
    }
    if (c.mode == WriteMode::kInsertAndEvict) {
      if (c.verbatim && kStrategy != EvictStrategy::kCustomized) {
        Lacks("insert_and_evict with ignore_evict_strategy");
      }
      if (max_capacity() > options_.max_hbm_for_vectors / (options_.dim * sizeof(Value))) {
        Lacks("insert_and_evict with rows in host memory");
      }
    }
    // Upstream's writes wait for a locked slot that they pass, whichever key they look for:
    // forever.
    const bool waits = c.mode < WriteMode::kErase && !c.pin;
    if (waits && c.n > 0 && locked(nullptr) > 0) {
      FailArgument(c.name, ": ", locked(nullptr),
                   " keys are locked; until unlock_keys the upstream engine only reads, erases and "
                   "locks");
    }
    // A table that doubles leaves locked rows where nobody looks for them afterwards.
    if ((c.pin || c.mode == WriteMode::kLock) && 2 * capacity() <= max_capacity()) {
      FailArgument(c.name, ": capacity is ", capacity(), " and max_capacity ", max_capacity(),
                   "; the upstream engine locks keys of a table that cannot grow");
    }
  }

  [[noreturn]] static void Lacks(const char* what) {
    FailArgument("the upstream engine has no ", what,
                 "; the native engine has (--//third_party/hierarchical_kv:engine=native)");
  }

  // A call on the table's device; what fails in upstream is named after the call.
  template <class Call>
  auto Named(const char* name, Call call) const -> decltype(call()) {
    accel::DeviceGuard device(options_.device_id);
    try {
      if constexpr (std::is_void<decltype(call())>::value) {
        call();
        accel::CheckCuda(cudaGetLastError(), "launching");
      } else {
        const auto result = call();
        accel::CheckCuda(cudaGetLastError(), "launching");
        return result;
      }
    } catch (const std::runtime_error& error) {
      accel::Fail(name, ": ", error.what());
    }
  }

  static accel::Buffer OnStream(const Predicate& predicate, cudaStream_t stream) {
    accel::Buffer memory(sizeof(UpstreamPredicate), "a predicate", stream);
    const UpstreamPredicate value{predicate};
    accel::CheckCuda(
        cudaMemcpyAsync(memory.As<char>(), &value, sizeof(value), cudaMemcpyHostToDevice, stream),
        "writing a predicate");
    return memory;
  }
  static Key Address(const accel::Buffer& memory) {
    return static_cast<Key>(reinterpret_cast<uintptr_t>(memory.As<char>()));
  }

  template <class T>
  static void Zero(T* array, uint64_t n, cudaStream_t stream) {
    accel::CheckCuda(cudaMemsetAsync(array, 0, n * sizeof(T), stream), "clearing");
  }
  static size_t* Counter(uint64_t* count) { return reinterpret_cast<size_t*>(count); }
  static cudaStream_t CudaStream(Stream stream) { return static_cast<cudaStream_t>(stream); }
  static Value* Values(char* rows) { return reinterpret_cast<Value*>(rows); }

  std::unique_ptr<Upstream> table_;
  mutable std::mutex locks_mutex_;
  UpstreamLocks<Key> locks_;
};

}  // namespace hkv
