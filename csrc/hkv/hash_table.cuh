// File: hash_table.cuh
//
// hkv::HashTable, the GPU table: header-only, no dependency but the CUDA runtime. Keys, scores and
// digests are in device memory; the rows fill max_hbm_for_vectors bytes of it, and go on in pinned
// host memory, which the kernels reach directly.
//
//   #include "csrc/hkv/hash_table.cuh"
//   ACCEL_PACKAGE("my_program");  // once in a program: what error messages begin with
//
//   hkv::HashTableOptions options;
//   options.max_capacity = 1000000;
//   options.dim = 64;
//   hkv::HashTable<int64_t, float> table(options);  // scores: LRU
//   table.insert_or_assign(n, keys, rows, nullptr, false, nullptr, stream);
//   table.find(n, keys, rows, founds, nullptr, stream);
//
//   nvcc -std=c++17 -arch=sm_80 -I<this repository> my_program.cu
//
// examples/hkv_cpp has whole programs: memory of a caller's allocator, lookups in other kernels,
// conditions on values. Keys are int64_t or uint64_t; values float, __half, __nv_bfloat16, int8_t,
// uint8_t, int32_t or double; scores uint64_t, or uint32_t with kCustomized. Keys are passed as
// 64-bit words, values as bytes. Its methods are those of Table (table.h) and those below; what
// works on batches is in batches.cuh, what moves whole tables in growth.cuh and table_io.cuh.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "csrc/common/cuda_memory.h"
#include "csrc/common/device.h"
#include "csrc/common/stream_order.h"
#include "csrc/hkv/device_storage.cuh"
#include "csrc/hkv/device_table.cuh"
#include "csrc/hkv/lookup_kernel.cuh"
#include "csrc/hkv/native_table.cuh"
#include "csrc/hkv/on_device.h"
#include "csrc/hkv/passes.cuh"
#include "csrc/hkv/passes_launch.cuh"
#include "csrc/hkv/place_kernels.cuh"
#include "csrc/hkv/scan_kernels.cuh"
#include "csrc/hkv/table.h"
#include "csrc/hkv/upsert_kernel.cuh"
#include "csrc/hkv/upsert_launch.cuh"

namespace hkv {

struct Staging;  // table_io.cuh

template <class Key, class Value, class Score = uint64_t,
          EvictStrategy kStrategy = EvictStrategy::kLru>
class HashTable : public NativeTable {
  static_assert(std::is_same<Score, uint64_t>::value,
                "scores are uint64_t, those of kCustomized uint64_t or uint32_t");

  template <class F>
  using IfPredicate =
      std::enable_if_t<std::is_invocable_r<bool, const F&, Key, const Value*, uint64_t>::value>;

 public:
  explicit HashTable(const HashTableOptions& options)
      : NativeTable(OnDevice(options), KeyTypeOf<Key>(), ValueTypeOf<Value>(), kStrategy) {
    accel::DeviceGuard device(options_.device_id);
    multiprocessors_ = accel::ProcessorCount();
    counter_ = TableMemory(options_.allocator, MemoryKind::kDevice, 8, "a counter");
    host_counter_ = TableMemory(options_.allocator, MemoryKind::kPinnedHost, 8, "a counter");
    row_bytes_ = static_cast<uint32_t>(options_.dim * sizeof(Value));
    storage_ = std::make_unique<DeviceStorage>(options_, options_.init_capacity, row_bytes_);
    storage_->AllocateRows(options_);
    Clear(nullptr);
    CheckCuda(cudaStreamSynchronize(nullptr), "clearing a new table");
    if (kStrategy == EvictStrategy::kEpochLru) set_clock(0);
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

  uint64_t erase_if(const Predicate& predicate, Stream stream) override {
    Scope scope(this, CudaStream(stream), true);
    return ScanAll(device::InRange{predicate}, true, scope.stream);
  }

  void clear(Stream stream) override {
    Scope scope(this, CudaStream(stream), true);
    Clear(scope.stream);
  }

  uint64_t size(Stream stream) const override {
    Scope scope(this, CudaStream(stream), false);
    return CountOf(*storage_, scope.stream);
  }

  uint64_t size_if(const Predicate& predicate, Stream stream) const override {
    Scope scope(this, CudaStream(stream), false);
    return ScanAll(device::InRange{predicate}, false, scope.stream);
  }

  uint64_t locked(Stream stream) const override {
    Scope scope(this, CudaStream(stream), false);
    return CountHeld(scope.stream);
  }

  RowsView rows() const override {
    std::lock_guard<std::mutex> guard(mutex_);
    const device::View& view = storage_->view;
    return {view.hbm_rows, view.host_rows, row_bytes_, view.num_hbm_rows, view.layout.capacity};
  }

  uint64_t capacity() const override {
    std::lock_guard<std::mutex> guard(mutex_);
    return Capacity();
  }

  void reserve(uint64_t capacity, Stream stream) override {
    Scope scope(this, CudaStream(stream), true);
    CheckReserve(capacity, max_capacity_);
    if (capacity > Capacity()) Grow(capacity, scope.stream);
  }

  void set_max_capacity(uint64_t rows) override {
    std::lock_guard<std::mutex> guard(mutex_);
    CheckMaxCapacity(rows, Capacity());
    max_capacity_ = rows;
    size_bound_ = Capacity();  // nobody counted while the table could not grow
  }

  void set_global_epoch(uint64_t epoch) override {
    std::lock_guard<std::mutex> guard(mutex_);
    epoch_ = epoch;
  }

  void set_clock(uint64_t ns) override {
    Scope scope(this, nullptr, false);
    clock_offset_ = ns - ReadClock(scope.stream);
  }

  uint64_t save(const std::string& path, Stream stream) const override;
  uint64_t load(const std::string& path, Stream stream) override;

  // -- with a functor of the caller's, see for_each.cuh

  template <class F, class = IfPredicate<F>>
  uint64_t erase_if(const F& predicate, Stream stream);
  template <class F, class = IfPredicate<F>>
  uint64_t size_if(const F& predicate, Stream stream) const;
  template <class F, class = IfPredicate<F>>
  void export_batch_if(const F& predicate, size_t n, size_t offset, uint64_t* count, uint64_t* keys,
                       Value* values, uint64_t* scores, Stream stream) const;
  using NativeTable::export_batch_if;
  // f(key, row, score) for the live keys of the slots [offset, offset + n).
  template <class F>
  void for_each(const F& f, size_t n, size_t offset, Stream stream);

  // launch(DeviceTable) starts kernels on `stream` that look keys up themselves; it has its place
  // among the calls on other streams as any call. Those of launch_writing may write rows.
  template <class F>
  void launch(Stream stream, F launch) const;
  template <class F>
  void launch_writing(Stream stream, F launch);

  void synchronize(Stream stream) const override {
    accel::DeviceGuard device(options_.device_id);
    CheckCuda(cudaStreamSynchronize(CudaStream(stream)), "synchronize");
  }

 private:
  // A call on a stream: the table's mutex, its device, and its place among the streams.
  class Scope {
   public:
    Scope(const HashTable* table, cudaStream_t stream, bool writes)
        : Scope(table, stream, [writes] { return writes; }) {}
    // `writes` is asked when the table is locked and its device is current.
    template <class Writes>
    Scope(const HashTable* table, cudaStream_t stream, Writes writes)
        : stream(stream),
          table_(table),
          guard_(table->mutex_),
          device_(table->options_.device_id),
          writes_(writes()) {
      table_->order_.Before(stream, writes_);
    }
    ~Scope() noexcept(false) {
      if (std::uncaught_exceptions() == 0) table_->order_.After(stream, writes_);
    }
    void Launched(const char* call) const { CheckCuda(cudaGetLastError(), call); }

    const cudaStream_t stream;

   private:
    const HashTable* table_;
    std::lock_guard<std::mutex> guard_;
    accel::DeviceGuard device_;
    bool writes_;
  };

  // -- reading

  void Do(const Read& call, Stream on) override;

  void Launch(const device::LookupArgs& args, cudaStream_t stream) const {
    LaunchLookup(storage_->view, args, Blocks(args.n - args.first), stream);
  }

  template <class Args>
  void LaunchHostRows(const DeviceStorage& storage, const Args& args, const device::HostMoves& host,
                      cudaStream_t stream) const;

  static bool IsHybrid(const DeviceStorage& storage) { return storage.view.host_rows != nullptr; }

  // Whether a batch's rows in host memory are to be moved in order. Needs mutex_.
  bool UsesHostBins(const DeviceStorage& storage, uint64_t n, const char* values,
                    cudaStream_t stream) const;

  // Whether calls on this stream take turns with all others, so that they can share memory: those
  // that are ordered do, and those that are captured (a graph must not run beside other calls) can
  // use what is there.
  bool TakeTurns(cudaStream_t stream, const void* memory) const {
    return order_.Applies(stream) || (options_.api_lock && memory != nullptr);
  }

  // -- writing

  void Do(const Write& call, Stream on) override;

  void Launch(const DeviceStorage& storage, const Write& call, cudaStream_t stream);

  template <WriteMode kMode>
  void Launch(const DeviceStorage& storage, device::UpsertArgs args, cudaStream_t stream);

  // Whether so many keys may hold so many equal ones that it pays to tell them apart.
  bool TellsEqualsApart(uint64_t n, cudaStream_t stream) const {
    return n >= options_.passes_from / 64 && TakeTurns(stream, equals_memory_.get());
  }

  // UpsertKernel with blocks that run at the same time.
  template <WriteMode kMode>
  void LaunchTogether(const DeviceStorage& storage, device::UpsertArgs args, cudaStream_t stream) {
    NeedEqualsMemory(stream);
    LaunchUpsertOf<kMode>(storage.view, args, equals_memory_->Get(),
                          Resident(Blocks(args.n), device::kUpsertBlocks), true, stream);
  }

  template <WriteMode kMode>
  static void LaunchUpsertOf(const device::View& view, const device::UpsertArgs& args,
                             const device::Equals& equals, unsigned blocks, bool together,
                             cudaStream_t stream) {
    if constexpr (kMode == WriteMode::kAccumOrAssign) {
      LaunchUpsertKernel<kMode, Value>(view, args, equals, blocks, together, stream);
    } else {
      LaunchUpsert(kMode, view, args, equals, blocks, together, stream);
    }
  }

  void NeedEqualsMemory(cudaStream_t stream) {
    if (equals_memory_ != nullptr) return;
    equals_memory_ = std::make_unique<EqualsMemory>(options_.allocator, stream);
  }

  // Blocks of a kernel that goes round.
  unsigned Resident(unsigned wanted, int per_multiprocessor) const {
    return std::min(wanted, static_cast<unsigned>(multiprocessors_ * per_multiprocessor));
  }

  // With rows in host memory passes pay much earlier.
  bool GoesInPasses(const DeviceStorage& storage, const device::UpsertArgs& args,
                    cudaStream_t stream);

  // Up to PassMemory::kKeys keys of a batch, from `first` on.
  device::UpsertArgs Part(device::UpsertArgs args, uint64_t first) const;

  template <WriteMode kMode>
  void LaunchPasses(const DeviceStorage& storage, device::UpsertArgs args, uint64_t whole,
                    cudaStream_t stream);

  // -- the whole table

  void Do(const Export& call, Stream on) const override {
    Scope scope(this, CudaStream(on), false);
    CheckRange(call, Capacity());
    Scan({call}, scope.stream);
    scope.Launched("export_batch");
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
    storage.ClearStamps(stream);
  }

  void Scan(const device::ExportArgs& args, cudaStream_t stream) const {
    Scan(args, device::InRange{args.predicate}, stream);
  }

  template <class Match>
  void Scan(device::ExportArgs args, const Match& matches, cudaStream_t stream) const {
    CheckCuda(cudaMemsetAsync(args.count, 0, 8, stream), "export_batch");
    if (args.begin == args.end) return;
    args.pitch = Pitch(args.pitch);
    args.word_bytes = WordBytes(args.pitch, args.values);
    device::ExportKernel<device::kThreads>
        <<<Blocks(args.end - args.begin), device::kThreads, 0, stream>>>(storage_->view, args,
                                                                         matches);
  }

  uint64_t ReadCounter(cudaStream_t stream) const {
    auto* host = host_counter_.As<uint64_t>();
    CheckCuda(cudaGetLastError(), "counting");
    CheckCuda(cudaMemcpyAsync(host, counter_.As<char>(), 8, cudaMemcpyDeviceToHost, stream),
              "counting");
    CheckCuda(cudaStreamSynchronize(stream), "counting");
    return *host;
  }

  uint64_t CountOf(const DeviceStorage& storage, cudaStream_t stream) const {
    auto* counter = counter_.As<unsigned long long>();
    CheckCuda(cudaMemsetAsync(counter, 0, 8, stream), "size");
    const uint64_t lines =
        static_cast<uint64_t>(storage.view.layout.num_buckets) * (kBucketSlots / 16);
    const unsigned blocks = std::min<unsigned>(Blocks(lines), 2048);
    device::CountKernel<device::kThreads>
        <<<blocks, device::kThreads, 0, stream>>>(storage.view, counter);
    return ReadCounter(stream);
  }

  uint64_t CountHeld(cudaStream_t stream) const {
    if (storage_->view.pinned == nullptr) return 0;
    auto* counter = counter_.As<unsigned long long>();
    CheckCuda(cudaMemsetAsync(counter, 0, 8, stream), "locked");
    const uint64_t words =
        static_cast<uint64_t>(storage_->view.layout.num_buckets) * (kBucketSlots / 32);
    device::CountBitsKernel<device::kThreads>
        <<<std::min<unsigned>(Blocks(words), 2048), device::kThreads, 0, stream>>>(
            storage_->view.pinned, words, counter);
    return ReadCounter(stream);
  }

  template <class Match>
  uint64_t ScanAll(const Match& matches, bool erase, cudaStream_t stream) const {
    device::ExportArgs args;
    args.end = Capacity();
    args.erase = erase;
    args.count = counter_.As<uint64_t>();
    Scan(args, matches, stream);
    return ReadCounter(stream);
  }

  // Grows a table that may still grow when n more keys might pass max_load_factor; of the given
  // ones, those that are new count. Only such a table ever waits for the device here.
  void MakeRoom(uint64_t n, const uint64_t* keys, cudaStream_t stream) override {
    uint64_t capacity = Capacity();
    const uint64_t most = max_capacity_;
    if (capacity == most) return;
    const auto fits = [&] {
      return static_cast<double>(size_bound_) <=
             options_.max_load_factor * static_cast<double>(capacity);
    };
    size_bound_ += n;
    if (fits()) return;
    const uint64_t size = CountOf(*storage_, stream);
    size_bound_ = size + n;
    if (fits()) return;
    if (keys != nullptr) size_bound_ = size + CountNew(n, keys, stream);
    while (!fits() && capacity < most) capacity = std::min(2 * capacity, most);
    if (capacity == Capacity() || CountHeld(stream) > 0) return;  // held rows may not move
    try {
      Grow(capacity, stream);
    } catch (const MemoryRefused&) {
      // Not twice as many rows, then: as many as are needed.
      const uint64_t needed = NeededCapacity(size_bound_, options_.max_load_factor);
      if (needed >= capacity) throw;
      Grow(needed, stream);
    }
  }

  // How many of the keys the table lacks, equal ones of a part counted once.
  uint64_t CountNew(uint64_t n, const uint64_t* keys, cudaStream_t stream) const {
    const uint64_t part = std::min(n, EqualsMemory::kKeys);
    const TableMemory map(options_.allocator, MemoryKind::kDevice, device::MapSize(part) * 4,
                          "a map of keys");
    uint64_t count = 0;
    for (uint64_t first = 0; first < n; first += part) {
      const uint64_t here = std::min(part, n - first);
      auto* const counter = counter_.As<uint64_t>();
      CheckCuda(cudaMemsetAsync(map.As<char>(), 0xff, map.bytes(), stream), "clearing a map");
      CheckCuda(cudaMemsetAsync(counter, 0, 8, stream), "clearing a counter");
      device::CountNewKernel<device::kThreads><<<Blocks(here), device::kThreads, 0, stream>>>(
          storage_->view, here, keys + first, map.As<uint32_t>(), counter);
      count += ReadCounter(stream);
    }
    return count;
  }

  // What the device's clock shows.
  uint64_t ReadClock(cudaStream_t stream) const {
    device::ClockKernel<device::kThreads>
        <<<1, device::kThreads, 0, stream>>>(storage_->view, counter_.As<uint64_t>());
    return ReadCounter(stream);
  }

  // -- growth.cuh

  void Grow(uint64_t capacity, cudaStream_t stream);
  void PlaceKeys(const DeviceStorage& to, cudaStream_t stream);
  void MakeWay(DeviceStorage* bigger, cudaStream_t stream);
  void CheckNoPins(cudaStream_t stream) const;

  // -- table_io.cuh

  class Loader;
  uint64_t ExportTo(Staging* staging, uint64_t offset, cudaStream_t stream) const;
};

}  // namespace hkv

#include "csrc/hkv/batches.cuh"
#include "csrc/hkv/for_each.cuh"
#include "csrc/hkv/growth.cuh"
#include "csrc/hkv/narrow_scores.cuh"
#include "csrc/hkv/table_io.cuh"
