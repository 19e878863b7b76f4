// File: table_io.cuh
//
// The calls of hkv::HashTable that move whole tables: growing, save and load. Part of
// hash_table.cuh.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/hash_table.cuh"
#include "csrc/hkv/table_file.h"

namespace hkv {

constexpr uint64_t kStagingRows = kFileBlockRows;

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

// Live rows among slots [offset, offset + kStagingRows); returns how many.
template <class Key, class Value, class Score, EvictStrategy kStrategy>
uint64_t HashTable<Key, Value, Score, kStrategy>::ExportTo(Staging* staging, uint64_t offset,
                                                           cudaStream_t stream) const {
  device::ExportArgs args;
  args.begin = offset;
  args.end = std::min(offset + kStagingRows, Capacity());
  args.keys = staging->keys.As<uint64_t>();
  args.values = staging->values.As<char>();
  args.scores = staging->scores.As<uint64_t>();
  args.count = counter_.As<uint64_t>();
  Scan(args, stream);
  return ReadCounter(stream);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::Grow(uint64_t capacity, cudaStream_t stream) {
  if (storage_->view.pinned != nullptr) CheckNoPins(stream);
  auto bigger = std::make_unique<DeviceStorage>(options_, capacity, row_bytes_);
  ClearStorage(*bigger, stream);
  Staging staging(row_bytes_);
  uint64_t moved = 0;
  for (uint64_t offset = 0; offset < Capacity(); offset += kStagingRows) {
    device::UpsertArgs args;
    args.n = ExportTo(&staging, offset, stream);
    if (args.n == 0) continue;
    moved += args.n;
    args.keys = staging.keys.As<uint64_t>();
    args.scores = staging.scores.As<uint64_t>();
    args.values = staging.values.As<char>();
    args.verbatim = true;
    Launch<WriteMode::kInsertOrAssign>(*bigger, args, stream);
  }
  const uint64_t stored = CountOf(*bigger, stream);
  if (stored != moved) {
    accel::Fail("reserve: ", moved - stored, " of ", moved, " live keys do not fit into ", capacity,
                " rows without an eviction");
  }
  storage_ = std::move(bigger);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::CheckNoPins(cudaStream_t stream) const {
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

template <class Key, class Value, class Score, EvictStrategy kStrategy>
uint64_t HashTable<Key, Value, Score, kStrategy>::save(const std::string& path, Stream on) const {
  const cudaStream_t stream = CudaStream(on);
  Scope scope(this, stream, false);
  TableFileWriter writer(path, key_type(), value_type(), kStrategy, options_.dim);
  Staging staging(row_bytes_);
  const uint64_t capacity = Capacity();
  for (uint64_t offset = 0; offset < capacity; offset += kStagingRows) {
    const uint64_t n = ExportTo(&staging, offset, stream);
    staging.ToHost(n, stream);
    writer.Append(n, staging.host_keys.data(), staging.host_scores.data(),
                  staging.host_values.data());
  }
  return writer.Commit();
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
uint64_t HashTable<Key, Value, Score, kStrategy>::load(const std::string& path, Stream on) {
  const cudaStream_t stream = CudaStream(on);
  TableFileReader reader(path, key_type(), value_type(), kStrategy, options_.dim);
  if (reader.rows() > options_.max_capacity) {
    FailArgument("load: '", path, "' holds ", reader.rows(), " rows, max_capacity is ",
                 options_.max_capacity);
  }
  accel::DeviceGuard device(options_.device_id);
  Staging staging(row_bytes_);
  Buffer status(MemoryKind::kDevice, kStagingRows, "a load");
  std::vector<uint8_t> host_status;
  uint64_t stored = 0;
  while (const size_t n =
             reader.Next(&staging.host_keys, &staging.host_scores, &staging.host_values)) {
    staging.ToDevice(n, stream);
    insert_or_assign(n, staging.keys.As<uint64_t>(), staging.values.As<char>(),
                     staging.scores.As<uint64_t>(), true, status.As<uint8_t>(), stream);
    host_status.resize(n);
    CheckCuda(
        cudaMemcpyAsync(host_status.data(), status.As<char>(), n, cudaMemcpyDeviceToHost, stream),
        "load");
    CheckCuda(cudaStreamSynchronize(stream), "load");
    for (uint8_t s : host_status) stored += s >= kUpdated && s <= kEvicted;
  }
  return stored;
}

}  // namespace hkv
