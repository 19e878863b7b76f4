// File: table_io.cuh
//
// The calls of hkv::HashTable that write and read files. Part of hash_table.cuh.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/hash_table.cuh"
#include "csrc/hkv/loading.h"
#include "csrc/hkv/place_kernels.cuh"
#include "csrc/hkv/relocation.h"
#include "csrc/hkv/table_file.h"

namespace hkv {

// Rows on their way to or from the host, so many at a time.
struct Staging {
  Staging(const Allocator& allocator, uint32_t row_bytes)
      : row_bytes(row_bytes),
        capacity(ChunkRows(row_bytes)),
        keys(allocator, MemoryKind::kDevice, capacity * 8, "staging"),
        scores(allocator, MemoryKind::kDevice, capacity * 8, "staging"),
        values(allocator, MemoryKind::kDevice, capacity * row_bytes, "staging") {}

  void ToHost(uint64_t n, Rows* rows, cudaStream_t stream) const {
    rows->Resize(n, row_bytes);
    Move(rows->keys.data(), keys.As<char>(), n * 8, stream);
    Move(rows->scores.data(), scores.As<char>(), n * 8, stream);
    Move(rows->values.data(), values.As<char>(), n * row_bytes, stream);
    CheckCuda(cudaStreamSynchronize(stream), "copying rows to the host");
  }
  void ToDevice(const Rows& rows, cudaStream_t stream) const {
    Move(keys.As<char>(), rows.keys.data(), rows.size() * 8, stream);
    Move(scores.As<char>(), rows.scores.data(), rows.size() * 8, stream);
    Move(values.As<char>(), rows.values.data(), rows.values.size(), stream);
  }
  static void Move(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  }

  uint32_t row_bytes;
  uint64_t capacity;
  TableMemory keys, scores, values;
};

// Live rows among the next slots from `offset` on, as many as the staging takes; returns how many.
template <class Key, class Value, class Score, EvictStrategy kStrategy>
uint64_t HashTable<Key, Value, Score, kStrategy>::ExportTo(Staging* staging, uint64_t offset,
                                                           cudaStream_t stream) const {
  device::ExportArgs args;
  args.begin = offset;
  args.end = std::min(offset + staging->capacity, Capacity());
  args.keys = staging->keys.As<uint64_t>();
  args.values = staging->values.As<char>();
  args.scores = staging->scores.As<uint64_t>();
  args.count = counter_.As<uint64_t>();
  Scan(args, stream);
  return ReadCounter(stream);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
uint64_t HashTable<Key, Value, Score, kStrategy>::save(const std::string& path, Stream on) const {
  const cudaStream_t stream = CudaStream(on);
  Scope scope(this, stream, false);
  TableFileWriter writer(path, key_type(), value_type(), kStrategy, options_.dim,
                         CountOf(*storage_, stream));
  Staging staging(options_.allocator, row_bytes_);
  Rows rows;
  for (uint64_t offset = 0; offset < Capacity(); offset += staging.capacity) {
    staging.ToHost(ExportTo(&staging, offset, stream), &rows, stream);
    writer.Append(rows.size(), rows.keys.data(), rows.scores.data(), rows.values.data());
  }
  return writer.Commit();
}

// The engine of Loading. Rows that the table evicts or refuses are set aside in host memory; at the
// end a search on a copy of the keys and scores finds where they go.
template <class Key, class Value, class Score, EvictStrategy kStrategy>
class HashTable<Key, Value, Score, kStrategy>::Loader {
 public:
  Loader(HashTable* table, cudaStream_t stream)
      : table_(*table),
        stream_(stream),
        in_(table->options_.allocator, table->row_bytes_),
        out_(table->options_.allocator, table->row_bytes_),
        status_(table->options_.allocator, MemoryKind::kDevice, in_.capacity, "a load"),
        count_(table->options_.allocator, MemoryKind::kDevice, 8, "a load") {}

  void Overwrite(const Rows& rows, uint8_t* status) {
    for (uint64_t score : rows.scores) {
      newest_ = std::max(newest_, ClockOf(kStrategy, score, &epoch_));
    }
    Write call = Call(WriteMode::kAssign, rows);
    call.status = status_.As<uint8_t>();
    table_.Run(call, stream_);
    Staging::Move(status, status_.As<char>(), rows.size(), stream_);
    CheckCuda(cudaStreamSynchronize(stream_), "load");
  }

  uint64_t Grow(uint64_t absent) {
    Scope scope(&table_, stream_, true);
    table_.MakeRoom(absent, nullptr, stream_);
    return table_.Capacity();
  }
  uint64_t Size() const { return table_.size(stream_); }
  void EraseBelow(uint64_t score) {
    if (score > 0) table_.erase_if(Predicate{0, 0, 0, score - 1}, stream_);
  }
  void Scores(std::vector<uint64_t>* scores) const {
    Scope scope(&table_, stream_, false);
    for (uint64_t offset = 0; offset < table_.Capacity(); offset += in_.capacity) {
      const uint64_t n = table_.ExportTo(&in_, offset, stream_);
      const size_t before = scores->size();
      scores->resize(before + n);
      Staging::Move(scores->data() + before, in_.scores.As<char>(), n * 8, stream_);
      CheckCuda(cudaStreamSynchronize(stream_), "load");
    }
  }

  void Insert(const Rows& rows) {
    Write call = Call(WriteMode::kInsertAndEvict, rows);
    call.evicted_keys = out_.keys.As<uint64_t>();
    call.evicted_scores = out_.scores.As<uint64_t>();
    call.evicted_values = out_.values.As<char>();
    call.evicted_count = count_.As<uint64_t>();
    table_.Run(call, stream_);
    uint64_t n = 0;
    Staging::Move(&n, count_.As<char>(), 8, stream_);
    CheckCuda(cudaStreamSynchronize(stream_), "load");
    Rows evicted;
    out_.ToHost(n, &evicted, stream_);
    Append(&aside_.keys, evicted.keys);
    Append(&aside_.scores, evicted.scores);
    Append(&aside_.values, evicted.values);
  }

  void Finish(std::vector<uint64_t>* left) {
    Scope scope(&table_, stream_, true);
    table_.epoch_ = std::max(table_.epoch_, epoch_);
    if (NeedsClock(hkv::RuleOf(kStrategy))) PassClock();
    if (aside_.size() > 0) PlaceAside(left);
  }

 private:
  static constexpr uint64_t kAside = uint64_t{1} << 63;  // with the index of a row set aside

  template <class T>
  static void Append(std::vector<T>* to, const std::vector<T>& from) {
    to->insert(to->end(), from.begin(), from.end());
  }

  Write Call(WriteMode mode, const Rows& rows) {
    in_.ToDevice(rows, stream_);
    Write call;
    call.name = "load";
    call.mode = mode;
    call.verbatim = true;
    call.n = rows.size();
    call.keys = in_.keys.As<uint64_t>();
    call.scores = in_.scores.As<uint64_t>();
    call.values = in_.values.As<char>();
    return call;
  }

  void PassClock() {
    const uint64_t now = table_.ReadClock(stream_) + table_.clock_offset_;
    if (newest_ >= now) table_.clock_offset_ += newest_ + 1 - now;
  }

  // A copy of the table's digests, keys, scores and pins.
  void Download() {
    const device::View& view = table_.storage_->view;
    const uint64_t slots = uint64_t{view.layout.num_buckets} * kBucketSlots;
    digests_.resize(slots);
    keys_.resize(slots);
    scores_.resize(slots);
    pinned_.assign(slots, 0);
    std::vector<uint64_t> entries(2 * slots);
    std::vector<uint32_t> pins(view.pinned != nullptr ? slots / 32 : 0);
    Staging::Move(digests_.data(), view.digests, slots, stream_);
    Staging::Move(entries.data(), view.entries, slots * 16, stream_);
    if (!pins.empty()) Staging::Move(pins.data(), view.pinned, slots / 8, stream_);
    CheckCuda(cudaStreamSynchronize(stream_), "load");
    for (uint64_t p = 0; p < slots; ++p) {
      const uint64_t at = p / device::kLineKeys * 2 * device::kLineKeys + p % device::kLineKeys;
      keys_[p] = entries[at];
      scores_[p] = entries[at + device::kLineKeys];
      if (!pins.empty()) pinned_[p] = pins[p / 32] >> (p % 32) & 1;
    }
  }

  void PlaceAside(std::vector<uint64_t>* left) {
    Download();
    const Layout& layout = table_.storage_->view.layout;
    Relocation relocation({layout, digests_.data(), keys_.data(), scores_.data(), pinned_.data()});
    std::unordered_map<uint64_t, uint64_t> source;  // position -> where its row is now
    const auto source_of = [&](uint64_t position) {
      const auto found = source.find(position);
      return found == source.end() ? position : found->second;
    };
    for (uint64_t i = 0; i < aside_.size(); ++i) {
      if (relocation.Has(aside_.keys[i])) continue;  // the file has the key twice
      const uint64_t position = relocation.Put(
          aside_.keys[i], aside_.scores[i],
          [&](uint64_t from, uint64_t to) { source[to] = source_of(from); },
          [&](uint64_t p) { left->push_back(keys_[p]); });
      if (position == kNoPosition) {
        left->push_back(aside_.keys[i]);
      } else {
        source[position] = kAside | i;
      }
    }
    Place(source);
  }

  // All rows that move are read before the first is written.
  void Place(const std::unordered_map<uint64_t, uint64_t>& source) {
    const size_t row_bytes = table_.row_bytes_;
    const device::View& view = table_.storage_->view;
    const uint32_t word_bytes = table_.WordBytes(0, in_.values.As<char>());
    std::vector<uint64_t> to, from;  // those that come from the table first
    for (const bool moved : {true, false}) {
      for (const auto& [position, where] : source) {
        if ((where < kAside) != moved || where == position) continue;
        to.push_back(position);
        if (moved) from.push_back(where);
      }
    }
    std::vector<char> moved(from.size() * row_bytes);
    for (uint64_t first = 0; first < from.size(); first += in_.capacity) {
      const uint64_t n = std::min(in_.capacity, from.size() - first);
      Staging::Move(in_.keys.As<char>(), from.data() + first, n * 8, stream_);
      device::GatherKernel<device::kThreads><<<Blocks(n), device::kThreads, 0, stream_>>>(
          view, n, in_.keys.As<uint64_t>(), in_.values.As<char>(), word_bytes);
      CheckCuda(cudaGetLastError(), "load");
      Staging::Move(moved.data() + first * row_bytes, in_.values.As<char>(), n * row_bytes,
                    stream_);
      CheckCuda(cudaStreamSynchronize(stream_), "load");
    }
    Rows rows;
    for (uint64_t first = 0; first < to.size(); first += in_.capacity) {
      const uint64_t n = std::min(in_.capacity, to.size() - first);
      rows.Resize(n, row_bytes);
      for (uint64_t i = 0; i < n; ++i) {
        const uint64_t position = to[first + i];
        rows.keys[i] = keys_[position];
        rows.scores[i] = scores_[position];
        const char* row = first + i < from.size()
                              ? moved.data() + (first + i) * row_bytes
                              : aside_.values.data() + (source.at(position) - kAside) * row_bytes;
        std::copy(row, row + row_bytes, rows.values.data() + i * row_bytes);
      }
      in_.ToDevice(rows, stream_);
      Staging::Move(out_.keys.As<char>(), to.data() + first, n * 8, stream_);
      device::PlaceKernel<device::kThreads><<<Blocks(n), device::kThreads, 0, stream_>>>(
          view, n, out_.keys.As<uint64_t>(), in_.keys.As<uint64_t>(), in_.scores.As<uint64_t>(),
          in_.values.As<char>(), word_bytes);
      CheckCuda(cudaGetLastError(), "load");
      CheckCuda(cudaStreamSynchronize(stream_), "load");
    }
  }

  HashTable& table_;
  cudaStream_t stream_;
  mutable Staging in_;
  Staging out_;
  TableMemory status_, count_;
  uint64_t newest_ = 0, epoch_ = 0;
  Rows aside_;
  std::vector<uint8_t> digests_, pinned_;
  std::vector<uint64_t> keys_, scores_;
};

template <class Key, class Value, class Score, EvictStrategy kStrategy>
uint64_t HashTable<Key, Value, Score, kStrategy>::load(const std::string& path, Stream on) {
  const TableFileReader reader(path, key_type(), value_type(), kStrategy, options_.dim);
  accel::DeviceGuard device(options_.device_id);
  Loader loader(this, CudaStream(on));
  return Loading<Loader>(reader, &loader).Run();
}

}  // namespace hkv
