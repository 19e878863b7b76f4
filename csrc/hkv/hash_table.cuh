// File: hash_table.cuh
//
// hkv::HashTable, the GPU table: header-only, no dependency but the CUDA runtime. Keys, scores and
// digests are in device memory; the rows fill max_hbm_for_vectors bytes of it, and go on in pinned
// host memory, which the kernels reach directly.
//
// Methods are those of nv::merlin::HashTable; their meaning is documented in table.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "csrc/common/cuda_memory.h"
#include "csrc/common/stream_order.h"
#include "csrc/hkv/checks.h"
#include "csrc/hkv/device_storage.cuh"
#include "csrc/hkv/lookup_kernel.cuh"
#include "csrc/hkv/passes.cuh"
#include "csrc/hkv/scan_kernels.cuh"
#include "csrc/hkv/table_file.h"
#include "csrc/hkv/types.h"
#include "csrc/hkv/upsert_kernel.cuh"

namespace hkv {

template <class Key, class Value, class Score = uint64_t,
          EvictStrategy kStrategy = EvictStrategy::kLru>
class HashTable {
  static_assert(std::is_same<Key, int64_t>::value || std::is_same<Key, uint64_t>::value,
                "keys are int64_t or uint64_t");
  static_assert(std::is_same<Score, uint64_t>::value, "scores are uint64_t");
  static_assert(std::is_same<Value, float>::value || std::is_same<Value, __half>::value ||
                    std::is_same<Value, __nv_bfloat16>::value,
                "values are float, __half or __nv_bfloat16");

  using Mode = device::UpsertMode;
  template <Mode kMode>
  using ElementOf = std::conditional_t<kMode == Mode::kAccumOrAssign, Value, char>;

 public:
  using key_type = Key;
  using value_type = Value;
  static constexpr EvictStrategy evict_strategy = kStrategy;
  static constexpr const char* kEngine = "native";

  explicit HashTable(const HashTableOptions& options)
      : options_(CheckedOptions(options)), order_(options.api_lock) {
    int count = 0;
    CheckCuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    if (options_.device_id < 0) CheckCuda(cudaGetDevice(&options_.device_id), "cudaGetDevice");
    if (options_.device_id >= count) {
      FailArgument("device_id is " + std::to_string(options_.device_id) + "; there are " +
                   std::to_string(count) + " CUDA devices");
    }
    accel::DeviceGuard device(options_.device_id);
    CheckCuda(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount,
                                     options_.device_id),
              "cudaDeviceGetAttribute");
    counter_ = Buffer(MemoryKind::kDevice, 8, "a counter");
    host_counter_ = Buffer(MemoryKind::kPinnedHost, 8, "a counter");
    row_bytes_ = static_cast<uint32_t>(options_.dim * sizeof(Value));
    storage_ = std::make_unique<DeviceStorage>(options_, options_.init_capacity, row_bytes_);
    Clear(nullptr);
    CheckCuda(cudaStreamSynchronize(nullptr), "clearing a new table");
  }

  ~HashTable() {
    int previous = 0;
    cudaGetDevice(&previous);
    cudaSetDevice(options_.device_id);
    storage_.reset();
    pass_memory_.reset();
    equals_memory_.reset();
    host_bins_.reset();
    cudaSetDevice(previous);
  }
  HashTable(const HashTable&) = delete;
  HashTable& operator=(const HashTable&) = delete;

  // -- reading

  void find(size_t n, const Key* keys, Value* values, bool* founds, Score* scores = nullptr,
            cudaStream_t stream = nullptr) const {
    device::LookupArgs args = Lookup("find", n, keys, founds, scores);
    args.values = Bytes(values);
    Run(args, stream);
  }

  void find(size_t n, const Key* keys, Value** rows, bool* founds, Score* scores = nullptr,
            cudaStream_t stream = nullptr) const {
    CheckArray("find_pointers", "rows", n, rows);
    device::LookupArgs args = Lookup("find_pointers", n, keys, founds, scores);
    args.rows = reinterpret_cast<void**>(rows);
    Run(args, stream);
  }

  void find(size_t n, const Key* keys, Value* values, Key* missed_keys, int* missed_indices,
            uint64_t* missed_size, Score* scores = nullptr, cudaStream_t stream = nullptr) const {
    CheckArray("find_missed", "missed_keys", n, missed_keys);
    CheckArray("find_missed", "missed_indices", n, missed_indices);
    CheckArray("find_missed", "missed_size", 1, missed_size);
    device::LookupArgs args = Lookup("find_missed", n, keys, nullptr, scores);
    args.values = Bytes(values);
    args.missed_keys = Words(missed_keys);
    args.missed_indices = missed_indices;
    args.missed_size = reinterpret_cast<unsigned long long*>(missed_size);
    Run(args, stream);
  }

  void contains(size_t n, const Key* keys, bool* founds, cudaStream_t stream = nullptr) const {
    CheckArray("contains", "founds", n, founds);
    Run(Lookup("contains", n, keys, founds, nullptr), stream);
  }

  // -- writing

  void find_and_update(size_t n, const Key* keys, Value* values, bool* founds,
                       const Score* scores = nullptr, cudaStream_t stream = nullptr,
                       uint8_t* status = nullptr) {
    device::UpsertArgs args = Upsert("find_and_update", n, keys, scores, status);
    args.values = Bytes(values);
    args.founds = founds;
    Run<Mode::kFindAndUpdate>("find_and_update", args, stream);
  }

  void find_or_insert(size_t n, const Key* keys, Value* values, bool* founds = nullptr,
                      const Score* scores = nullptr, cudaStream_t stream = nullptr,
                      uint8_t* status = nullptr) {
    CheckArray("find_or_insert", "values", n, values);
    device::UpsertArgs args = Upsert("find_or_insert", n, keys, scores, status);
    args.values = Bytes(values);
    args.founds = founds;
    Run<Mode::kFindOrInsert>("find_or_insert", args, stream);
  }

  void find_or_insert(size_t n, const Key* keys, Value** rows, bool* founds,
                      const Score* scores = nullptr, cudaStream_t stream = nullptr,
                      bool lock = false, uint8_t* status = nullptr) {
    CheckArray("find_or_insert_pointers", "rows", n, rows);
    device::UpsertArgs args = Upsert("find_or_insert_pointers", n, keys, scores, status);
    args.rows = reinterpret_cast<void**>(rows);
    args.founds = founds;
    args.pin = lock;
    Run<Mode::kFindOrInsert>("find_or_insert_pointers", args, stream);
  }

  void insert_or_assign(size_t n, const Key* keys, const Value* values,
                        const Score* scores = nullptr, cudaStream_t stream = nullptr,
                        bool ignore_evict_strategy = false, uint8_t* status = nullptr) {
    CheckArray("insert_or_assign", "values", n, values);
    device::UpsertArgs args =
        Upsert("insert_or_assign", n, keys, scores, status, ignore_evict_strategy);
    args.values = Bytes(values);
    Run<Mode::kInsertOrAssign>("insert_or_assign", args, stream);
  }

  void insert_and_evict(size_t n, const Key* keys, const Value* values, const Score* scores,
                        Key* evicted_keys, Value* evicted_values, Score* evicted_scores,
                        uint64_t* evicted_count, cudaStream_t stream = nullptr,
                        bool ignore_evict_strategy = false, uint8_t* status = nullptr) {
    CheckArray("insert_and_evict", "values", n, values);
    CheckArray("insert_and_evict", "evicted_keys", n, evicted_keys);
    CheckArray("insert_and_evict", "evicted_values", n, evicted_values);
    CheckArray("insert_and_evict", "evicted_count", 1, evicted_count);
    device::UpsertArgs args =
        Upsert("insert_and_evict", n, keys, scores, status, ignore_evict_strategy);
    args.values = Bytes(values);
    args.evicted_keys = Words(evicted_keys);
    args.evicted_values = Bytes(evicted_values);
    args.evicted_scores = evicted_scores;
    args.evicted_count = reinterpret_cast<unsigned long long*>(evicted_count);
    Run<Mode::kInsertAndEvict>("insert_and_evict", args, stream);
  }

  void accum_or_assign(size_t n, const Key* keys, const Value* values_or_deltas, const bool* accums,
                       const Score* scores = nullptr, cudaStream_t stream = nullptr,
                       uint8_t* status = nullptr) {
    CheckArray("accum_or_assign", "values_or_deltas", n, values_or_deltas);
    CheckArray("accum_or_assign", "accums", n, accums);
    device::UpsertArgs args = Upsert("accum_or_assign", n, keys, scores, status);
    args.values = Bytes(values_or_deltas);
    args.accums = accums;
    Run<Mode::kAccumOrAssign>("accum_or_assign", args, stream);
  }

  void assign(size_t n, const Key* keys, const Value* values, const Score* scores = nullptr,
              cudaStream_t stream = nullptr, uint8_t* status = nullptr) {
    CheckArray("assign", "values", n, values);
    device::UpsertArgs args = Upsert("assign", n, keys, scores, status);
    args.values = Bytes(values);
    Run<Mode::kAssign>("assign", args, stream);
  }

  void assign_values(size_t n, const Key* keys, const Value* values, cudaStream_t stream = nullptr,
                     uint8_t* status = nullptr) {
    CheckArray("assign_values", "keys", n, keys);
    CheckArray("assign_values", "values", n, values);
    device::UpsertArgs args;
    args.n = n;
    args.keys = Words(keys);
    args.status = status;
    args.values = Bytes(values);
    args.touch_scores = false;
    Run<Mode::kAssign>("assign_values", args, stream);
  }

  void assign_scores(size_t n, const Key* keys, const Score* scores = nullptr,
                     cudaStream_t stream = nullptr, uint8_t* status = nullptr) {
    Run<Mode::kAssign>("assign_scores", Upsert("assign_scores", n, keys, scores, status), stream);
  }

  void erase(size_t n, const Key* keys, cudaStream_t stream = nullptr, uint8_t* status = nullptr) {
    CheckArray("erase", "keys", n, keys);
    if (n == 0) return;
    Scope scope(this, stream, true);
    device::EraseKernel<device::kThreads>
        <<<Blocks(n), device::kThreads, 0, stream>>>(storage_->view, n, Words(keys), status);
    scope.Launched("erase");
  }

  uint64_t erase_if(const Predicate& predicate, cudaStream_t stream = nullptr) {
    Scope scope(this, stream, true);
    return ScanAll(predicate, true, stream);
  }

  void clear(cudaStream_t stream = nullptr) {
    Scope scope(this, stream, true);
    Clear(stream);
  }

  void lock_keys(size_t n, const Key* keys, bool* succeeded = nullptr,
                 cudaStream_t stream = nullptr) {
    SetPins("lock_keys", n, keys, true, succeeded, stream);
  }

  void unlock_keys(size_t n, const Key* keys, bool* succeeded = nullptr,
                   cudaStream_t stream = nullptr) {
    SetPins("unlock_keys", n, keys, false, succeeded, stream);
  }

  // -- scanning

  void export_batch(size_t n, size_t offset, uint64_t* count, Key* keys, Value* values,
                    Score* scores = nullptr, cudaStream_t stream = nullptr) const {
    export_batch_if(Predicate(), n, offset, count, keys, values, scores, stream);
  }

  void export_batch_if(const Predicate& predicate, size_t n, size_t offset, uint64_t* count,
                       Key* keys, Value* values, Score* scores = nullptr,
                       cudaStream_t stream = nullptr) const {
    CheckArray("export_batch", "count", 1, count);
    Scope scope(this, stream, false);
    CheckRange("export_batch", n, offset, storage_->view.layout.capacity);
    device::ExportArgs args;
    args.begin = offset;
    args.end = offset + n;
    args.predicate = predicate;
    args.keys = Words(keys);
    args.values = Bytes(values);
    args.scores = scores;
    args.count = reinterpret_cast<unsigned long long*>(count);
    Export(args, stream);
    scope.Launched("export_batch");
  }

  uint64_t size(cudaStream_t stream = nullptr) const {
    Scope scope(this, stream, false);
    return Size(stream);
  }

  uint64_t size_if(const Predicate& predicate, cudaStream_t stream = nullptr) const {
    Scope scope(this, stream, false);
    return const_cast<HashTable*>(this)->ScanAll(predicate, false, stream);
  }

  uint64_t capacity() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return storage_->view.layout.capacity;
  }
  uint64_t max_capacity() const { return options_.max_capacity; }
  uint32_t dim() const { return options_.dim; }
  int32_t device() const { return options_.device_id; }

  void reserve(uint64_t capacity, cudaStream_t stream = nullptr) {
    if (capacity > options_.max_capacity) {
      FailArgument("reserve: capacity is " + std::to_string(capacity) +
                   "; it must not exceed max_capacity, " + std::to_string(options_.max_capacity));
    }
    Scope scope(this, stream, true);
    if (capacity > storage_->view.layout.capacity) Grow(capacity, stream);
  }

  void set_global_epoch(uint64_t epoch) {
    std::lock_guard<std::mutex> guard(mutex_);
    epoch_ = epoch;
  }

  // -- files

  uint64_t save(const std::string& path, cudaStream_t stream = nullptr) const {
    Scope scope(this, stream, false);
    TableFileWriter writer(path, FileKey(), FileValue(), kStrategy, options_.dim);
    Staging staging(row_bytes_);
    const uint64_t capacity = storage_->view.layout.capacity;
    for (uint64_t offset = 0; offset < capacity; offset += kStagingRows) {
      const uint64_t n = ExportTo(&staging, offset, stream);
      staging.ToHost(n, stream);
      writer.Append(n, staging.host_keys.data(), staging.host_scores.data(),
                    staging.host_values.data());
    }
    return writer.Commit();
  }

  uint64_t load(const std::string& path, cudaStream_t stream = nullptr) {
    TableFileReader reader(path, FileKey(), FileValue(), kStrategy, options_.dim);
    if (reader.rows() > options_.max_capacity) {
      FailArgument("load: '" + path + "' holds " + std::to_string(reader.rows()) +
                   " rows, max_capacity is " + std::to_string(options_.max_capacity));
    }
    accel::DeviceGuard device(options_.device_id);
    Staging staging(row_bytes_);
    Buffer status(MemoryKind::kDevice, kStagingRows, "a load");
    std::vector<uint8_t> host_status;
    uint64_t stored = 0;
    while (const size_t n =
               reader.Next(&staging.host_keys, &staging.host_scores, &staging.host_values)) {
      staging.ToDevice(n, stream);
      insert_or_assign(n, staging.keys.template As<Key>(), staging.values.template As<Value>(),
                       staging.scores.template As<Score>(), stream, true,
                       status.template As<uint8_t>());
      host_status.resize(n);
      CheckCuda(
          cudaMemcpyAsync(host_status.data(), status.As<char>(), n, cudaMemcpyDeviceToHost, stream),
          "load");
      CheckCuda(cudaStreamSynchronize(stream), "load");
      for (uint8_t s : host_status) stored += s >= kUpdated && s <= kEvicted;
    }
    return stored;
  }

 private:
  static constexpr uint64_t kStagingRows = kFileBlockRows;

  // A call on a stream: the table's mutex, its device, and its place among the streams.
  class Scope {
   public:
    Scope(const HashTable* table, cudaStream_t stream, bool writes)
        : Scope(table, stream, [writes] { return writes; }) {}
    // `writes` is asked when the table is locked and its device is current.
    template <class Writes>
    Scope(const HashTable* table, cudaStream_t stream, Writes writes)
        : table_(table),
          stream_(stream),
          guard_(table->mutex_),
          device_(table->options_.device_id),
          writes_(writes()) {
      table_->order_.Before(stream_, writes_);
    }
    ~Scope() noexcept(false) {
      if (std::uncaught_exceptions() == 0) table_->order_.After(stream_, writes_);
    }
    void Launched(const char* call) const { CheckCuda(cudaGetLastError(), call); }

   private:
    const HashTable* table_;
    cudaStream_t stream_;
    std::lock_guard<std::mutex> guard_;
    accel::DeviceGuard device_;
    bool writes_;
  };

  // Rows on their way to or from the host.
  struct Staging {
    explicit Staging(uint32_t row_bytes)
        : row_bytes(row_bytes),
          keys(MemoryKind::kDevice, kStagingRows * 8, "staging"),
          scores(MemoryKind::kDevice, kStagingRows * 8, "staging"),
          values(MemoryKind::kDevice, kStagingRows * row_bytes, "staging") {}

    void ToHost(uint64_t n, cudaStream_t stream) {
      host_keys.resize(n);
      host_scores.resize(n);
      host_values.resize(n * row_bytes);
      Move(host_keys.data(), keys.As<char>(), n * 8, stream);
      Move(host_scores.data(), scores.As<char>(), n * 8, stream);
      Move(host_values.data(), values.As<char>(), n * row_bytes, stream);
      CheckCuda(cudaStreamSynchronize(stream), "save");
    }
    void ToDevice(uint64_t n, cudaStream_t stream) {
      Move(keys.As<char>(), host_keys.data(), n * 8, stream);
      Move(scores.As<char>(), host_scores.data(), n * 8, stream);
      Move(values.As<char>(), host_values.data(), n * row_bytes, stream);
    }
    static void Move(void* to, const void* from, size_t bytes, cudaStream_t stream) {
      CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
    }

    uint32_t row_bytes;
    Buffer keys, scores, values;
    std::vector<uint64_t> host_keys, host_scores;
    std::vector<char> host_values;
  };

  static constexpr KeyType FileKey() {
    return std::is_same<Key, int64_t>::value ? KeyType::kInt64 : KeyType::kUInt64;
  }
  static constexpr ValueType FileValue() {
    return std::is_same<Value, float>::value    ? ValueType::kFloat32
           : std::is_same<Value, __half>::value ? ValueType::kFloat16
                                                : ValueType::kBFloat16;
  }

  static unsigned Blocks(uint64_t n) {
    return static_cast<unsigned>((n + device::kThreads - 1) / device::kThreads);
  }
  template <class T>
  static auto Words(T* keys) {
    using Word = std::conditional_t<std::is_const<T>::value, const uint64_t, uint64_t>;
    return reinterpret_cast<Word*>(keys);
  }
  static char* Bytes(const Value* values) {
    return const_cast<char*>(reinterpret_cast<const char*>(values));
  }

  // The widest word that suits the rows and the caller's arrays.
  uint32_t WordBytes(const void* a, const void* b = nullptr) const {
    const uint64_t bits =
        row_bytes_ | reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
    return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 2;
  }

  static device::LookupArgs Lookup(const char* call, size_t n, const Key* keys, bool* founds,
                                   Score* scores) {
    CheckArray(call, "keys", n, keys);
    device::LookupArgs args;
    args.n = n;
    args.keys = Words(keys);
    args.founds = founds;
    args.scores = scores;
    return args;
  }

  void Run(device::LookupArgs args, cudaStream_t stream) const {
    bool in_order = false;
    Scope scope(this, stream,
                [&] { return in_order = UsesHostBins(*storage_, args.n, args.values, stream); });
    if (args.missed_size != nullptr) {
      CheckCuda(cudaMemsetAsync(args.missed_size, 0, 8, stream), "find_missed");
    }
    if (args.n == 0) return;
    args.word_bytes = WordBytes(args.values);
    if (!in_order) {
      Launch(args, stream);
    } else {
      const uint64_t n = args.n;
      for (args.first = 0; args.first < n; args.first += HostBins::kKeys) {
        args.n = std::min(n, args.first + HostBins::kKeys);
        args.host = host_bins_->Start(stream);
        Launch(args, stream);
        LaunchHostRows(*storage_, args.values, args.word_bytes, args.host, stream);
      }
    }
    scope.Launched("find");
  }

  void Launch(const device::LookupArgs& args, cudaStream_t stream) const {
    const unsigned blocks = Blocks(args.n - args.first);
    if (args.values != nullptr) {
      device::LookupKernel<true><<<blocks, device::kThreads, 0, stream>>>(storage_->view, args);
    } else {
      device::LookupKernel<false><<<blocks, device::kThreads, 0, stream>>>(storage_->view, args);
    }
  }

  void LaunchHostRows(const DeviceStorage& storage, char* values, uint32_t word_bytes,
                      const device::HostMoves& host, cudaStream_t stream) const {
    device::HostRowsKernel<device::kHostThreads>
        <<<device::kHostBlocks, device::kHostThreads, 0, stream>>>(storage.view, values, word_bytes,
                                                                   host);
  }

  static bool IsHybrid(const DeviceStorage& storage) { return storage.view.host_rows != nullptr; }

  // Whether a batch's rows in host memory are to be moved in order. Needs mutex_.
  bool UsesHostBins(const DeviceStorage& storage, uint64_t n, const char* values,
                    cudaStream_t stream) const {
    if (values == nullptr || !IsHybrid(storage)) return false;
    if (n < HostBins::kFrom || n >> 31 != 0) return false;
    if (!order_.Applies(stream)) return false;  // calls that use the bins take turns
    if (host_bins_ == nullptr) host_bins_ = std::make_unique<HostBins>();
    return true;
  }

  static device::UpsertArgs Upsert(const char* call, size_t n, const Key* keys, const Score* scores,
                                   uint8_t* status, bool verbatim = false) {
    CheckArray(call, "keys", n, keys);
    CheckScores(call, kStrategy, verbatim, n, scores);
    device::UpsertArgs args;
    args.n = n;
    args.keys = Words(keys);
    args.scores = scores;
    args.status = status;
    args.verbatim = verbatim;
    return args;
  }

  template <Mode kMode>
  void Run(const char* call, device::UpsertArgs args, cudaStream_t stream) {
    Scope scope(this, stream, true);
    if (args.evicted_count != nullptr) {
      CheckCuda(cudaMemsetAsync(args.evicted_count, 0, 8, stream), call);
    }
    if (args.n == 0) return;
    if (device::Inserts(kMode)) MakeRoom(args.n, stream);
    if (args.pin) NeedPins(stream);
    Launch<kMode>(*storage_, args, stream);
    scope.Launched(call);
  }

  template <Mode kMode>
  void Launch(const DeviceStorage& storage, device::UpsertArgs args, cudaStream_t stream) {
    args.epoch = epoch_;
    args.word_bytes = WordBytes(args.values, args.evicted_values);
    if constexpr (kMode != Mode::kAccumOrAssign) {
      if (GoesInPasses(storage, args, stream)) {
        for (uint64_t first = 0; first < args.n; first += PassMemory::kKeys) {
          LaunchPasses<kMode>(storage, Part(args, first), stream);
        }
        return;
      }
    }
    if (!TellsEqualsApart(args.n, stream)) {
      device::UpsertKernel<kStrategy, kMode, ElementOf<kMode>>
          <<<Blocks(args.n), device::kThreads, 0, stream>>>(storage.view, args, device::Equals());
      return;
    }
    for (uint64_t first = 0; first < args.n; first += EqualsMemory::kKeys) {
      LaunchTogether<kMode>(storage, Part(args, first), stream);
    }
  }

  // Whether so many keys may hold so many equal ones that it pays to tell them apart.
  bool TellsEqualsApart(uint64_t n, cudaStream_t stream) const {
    return n >= options_.passes_from / 64 && order_.Applies(stream);
  }

  // UpsertKernel with blocks that run at the same time.
  template <Mode kMode>
  void LaunchTogether(const DeviceStorage& storage, device::UpsertArgs args, cudaStream_t stream) {
    if (equals_memory_ == nullptr) equals_memory_ = std::make_unique<EqualsMemory>(stream);
    device::View view = storage.view;
    device::Equals equals = equals_memory_->Get();
    void* parameters[] = {&view, &args, &equals};
    const auto kernel = device::UpsertKernel<kStrategy, kMode, ElementOf<kMode>>;
    CheckCuda(cudaLaunchCooperativeKernel(kernel, Resident(Blocks(args.n), device::kUpsertBlocks),
                                          device::kThreads, parameters, 0, stream),
              "launching a kernel");
  }

  // Blocks of a kernel that goes round.
  unsigned Resident(unsigned wanted, int per_multiprocessor) const {
    return std::min(wanted, static_cast<unsigned>(multiprocessors_ * per_multiprocessor));
  }

  // With rows in host memory passes pay much earlier.
  bool GoesInPasses(const DeviceStorage& storage, const device::UpsertArgs& args,
                    cudaStream_t stream) {
    const uint64_t from = IsHybrid(storage) ? options_.passes_from / 16 : options_.passes_from;
    if (args.n < from || args.pin || !order_.Applies(stream)) return false;
    if (pass_memory_ == nullptr) pass_memory_ = std::make_unique<PassMemory>();
    return true;
  }

  // Up to PassMemory::kKeys keys of a batch, from `first` on.
  device::UpsertArgs Part(device::UpsertArgs args, uint64_t first) const {
    args.n = std::min(args.n - first, PassMemory::kKeys);
    const auto advance = [&](auto*& array, uint64_t step) {
      if (array != nullptr) array += first * step;
    };
    advance(args.keys, 1);
    advance(args.scores, 1);
    advance(args.values, row_bytes_);
    advance(args.rows, 1);
    advance(args.accums, 1);
    advance(args.founds, 1);
    advance(args.out_scores, 1);
    advance(args.status, 1);
    return args;
  }

  template <Mode kMode>
  void LaunchPasses(const DeviceStorage& storage, device::UpsertArgs args, cudaStream_t stream) {
    constexpr bool kInserts = device::Inserts(kMode);
    constexpr int kThreads = device::kThreads;
    device::Plan plan = pass_memory_->Start(storage, args.n, stream);
    if (UsesHostBins(storage, args.n, args.values, stream)) plan.host = host_bins_->Start(stream);
    const device::View& view = storage.view;
    const unsigned blocks = Blocks(args.n);
    device::ClaimKernel<kStrategy, kMode><<<blocks, kThreads, 0, stream>>>(view, args, plan);
    if (plan.host.sizes != nullptr) {
      LaunchHostRows(storage, args.values, args.word_bytes, plan.host, stream);
    }
    if constexpr (kInserts) {
      device::EvictKernel<kStrategy, kMode>
          <<<Resident(Blocks(view.layout.num_buckets), device::kEvictBlocks), kThreads, 0,
             stream>>>(view, args, plan);
    }
    args.list = plan.rest;
    args.list_size = plan.counters + device::kRest;
    LaunchTogether<kMode>(storage, args, stream);
  }

  void SetPins(const char* call, size_t n, const Key* keys, bool lock, bool* succeeded,
               cudaStream_t stream) {
    CheckArray(call, "keys", n, keys);
    if (n == 0) return;
    Scope scope(this, stream, true);
    NeedPins(stream);
    device::LockKernel<device::kThreads><<<Blocks(n), device::kThreads, 0, stream>>>(
        storage_->view, n, Words(keys), lock, succeeded);
    scope.Launched(call);
  }

  // The bits of lock_keys exist from its first use on.
  void NeedPins(cudaStream_t stream) {
    if (storage_->view.pinned != nullptr) return;
    const uint64_t bytes =
        static_cast<uint64_t>(storage_->view.layout.num_buckets) * (kBucketSlots / 8);
    storage_->pinned = Buffer(MemoryKind::kDevice, bytes, "the bits of lock_keys");
    storage_->view.pinned = storage_->pinned.template As<uint32_t>();
    CheckCuda(cudaMemsetAsync(storage_->view.pinned, 0, bytes, stream), "lock_keys");
  }

  void Clear(cudaStream_t stream) {
    ClearStorage(*storage_, stream);
    size_bound_ = 0;
  }

  static void ClearStorage(const DeviceStorage& storage, cudaStream_t stream) {
    const uint64_t threads = static_cast<uint64_t>(storage.view.layout.num_buckets) * 32;
    device::ClearKernel<device::kThreads>
        <<<Blocks(threads), device::kThreads, 0, stream>>>(storage.view);
    CheckCuda(cudaGetLastError(), "clear");
    CheckCuda(cudaMemsetAsync(storage.waiting.As<char>(), 0xff,
                              storage.view.layout.num_buckets * uint64_t{4}, stream),
              "clear");
  }

  void Export(device::ExportArgs args, cudaStream_t stream) const {
    CheckCuda(cudaMemsetAsync(args.count, 0, 8, stream), "export_batch");
    if (args.begin == args.end) return;
    args.word_bytes = WordBytes(args.values);
    device::ExportKernel<device::kThreads>
        <<<Blocks(args.end - args.begin), device::kThreads, 0, stream>>>(storage_->view, args);
  }

  uint64_t ReadCounter(cudaStream_t stream) const {
    auto* host = host_counter_.template As<uint64_t>();
    CheckCuda(cudaGetLastError(), "counting");
    CheckCuda(
        cudaMemcpyAsync(host, counter_.template As<char>(), 8, cudaMemcpyDeviceToHost, stream),
        "counting");
    CheckCuda(cudaStreamSynchronize(stream), "counting");
    return *host;
  }

  uint64_t CountOf(const DeviceStorage& storage, cudaStream_t stream) const {
    auto* counter = counter_.template As<unsigned long long>();
    CheckCuda(cudaMemsetAsync(counter, 0, 8, stream), "size");
    const uint64_t lines =
        static_cast<uint64_t>(storage.view.layout.num_buckets) * (kBucketSlots / 16);
    const unsigned blocks = std::min<unsigned>(Blocks(lines), 2048);
    device::CountKernel<device::kThreads>
        <<<blocks, device::kThreads, 0, stream>>>(storage.view, counter);
    return ReadCounter(stream);
  }

  uint64_t Size(cudaStream_t stream) const { return CountOf(*storage_, stream); }

  uint64_t ScanAll(const Predicate& predicate, bool erase, cudaStream_t stream) {
    device::ExportArgs args;
    args.end = storage_->view.layout.capacity;
    args.predicate = predicate;
    args.erase = erase;
    args.count = counter_.template As<unsigned long long>();
    Export(args, stream);
    return ReadCounter(stream);
  }

  // Live rows among slots [offset, offset + kStagingRows); returns how many.
  uint64_t ExportTo(Staging* staging, uint64_t offset, cudaStream_t stream) const {
    device::ExportArgs args;
    args.begin = offset;
    args.end = std::min(offset + kStagingRows, storage_->view.layout.capacity);
    args.keys = staging->keys.template As<uint64_t>();
    args.values = staging->values.template As<char>();
    args.scores = staging->scores.template As<uint64_t>();
    args.count = counter_.template As<unsigned long long>();
    Export(args, stream);
    return ReadCounter(stream);
  }

  // Grows a table that may still grow when n more keys might pass max_load_factor. Only such a
  // table ever waits for the device here.
  void MakeRoom(uint64_t n, cudaStream_t stream) {
    uint64_t capacity = storage_->view.layout.capacity;
    if (capacity == options_.max_capacity) return;
    const auto fits = [&] {
      return static_cast<double>(size_bound_) <=
             options_.max_load_factor * static_cast<double>(capacity);
    };
    size_bound_ += n;
    if (fits()) return;
    size_bound_ = Size(stream) + n;
    while (!fits() && capacity < options_.max_capacity) {
      capacity = std::min(2 * capacity, options_.max_capacity);
    }
    if (capacity > storage_->view.layout.capacity) Grow(capacity, stream);
  }

  void Grow(uint64_t capacity, cudaStream_t stream) {
    if (storage_->view.pinned != nullptr) CheckNoPins(stream);
    auto bigger = std::make_unique<DeviceStorage>(options_, capacity, row_bytes_);
    ClearStorage(*bigger, stream);
    Staging staging(row_bytes_);
    uint64_t moved = 0;
    for (uint64_t offset = 0; offset < storage_->view.layout.capacity; offset += kStagingRows) {
      device::UpsertArgs args;
      args.n = ExportTo(&staging, offset, stream);
      if (args.n == 0) continue;
      moved += args.n;
      args.keys = staging.keys.template As<uint64_t>();
      args.scores = staging.scores.template As<uint64_t>();
      args.values = staging.values.template As<char>();
      args.verbatim = true;
      Launch<Mode::kInsertOrAssign>(*bigger, args, stream);
    }
    const uint64_t stored = CountOf(*bigger, stream);
    if (stored != moved) {
      accel::Fail("reserve: ", moved - stored, " of ", moved, " live keys do not fit into ",
                  capacity, " rows without an eviction");
    }
    storage_ = std::move(bigger);
  }

  void CheckNoPins(cudaStream_t stream) const {
    const uint64_t words =
        static_cast<uint64_t>(storage_->view.layout.num_buckets) * (kBucketSlots / 32);
    std::vector<uint32_t> bits(words);
    CheckCuda(cudaMemcpyAsync(bits.data(), storage_->view.pinned, words * 4, cudaMemcpyDeviceToHost,
                              stream),
              "reserve");
    CheckCuda(cudaStreamSynchronize(stream), "reserve");
    for (uint32_t word : bits) {
      if (word != 0) {
        accel::Fail("reserve: keys are locked by lock_keys, so their rows cannot move");
      }
    }
  }

  HashTableOptions options_;
  uint32_t row_bytes_ = 0;
  uint64_t epoch_ = 0;
  uint64_t size_bound_ = 0;  // at least the number of live keys, while the table may grow
  int multiprocessors_ = 0;
  std::unique_ptr<DeviceStorage> storage_;
  std::unique_ptr<PassMemory> pass_memory_;
  std::unique_ptr<EqualsMemory> equals_memory_;
  mutable std::unique_ptr<HostBins> host_bins_;
  Buffer counter_, host_counter_;
  mutable accel::StreamOrder order_;
  mutable std::mutex mutex_;
};

}  // namespace hkv
