// File: growth.cuh
//
// How hkv::HashTable grows. Part of hash_table.cuh.
//
// First the keys and scores get a new set of arrays; so it is known that all of them fit before
// anything moves. Then the rows follow, from device to device where there is memory for the old and
// the new rows at once. Where there is not, they wait in host memory while the old rows make room
// for the new ones. Whatever is refused, the table is as it was.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "csrc/hkv/copy.cuh"
#include "csrc/hkv/hash_table.cuh"
#include "csrc/hkv/probe.cuh"

namespace hkv {

constexpr uint64_t kRowsAtOnce = 1 << 20;  // of a growing table

namespace device {

// Copies the rows begin ... end - 1 of a table to where their keys are in another one.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    MoveRowsKernel(const View from, const View to, uint64_t begin, uint64_t end,
                   uint32_t word_bytes) {
  __shared__ WarpScratch scratches[kBlock / 32];
  const uint64_t row = begin + ThreadIndex();
  const char* source = nullptr;
  char* target = nullptr;
  if (row < end) {
    uint32_t bucket, slot;
    from.layout.Locate(row, &bucket, &slot);
    const uint32_t position = bucket * kBucketSlots + slot;
    if (from.digests[position] >= kFirstTag) {
      const uint64_t key = *from.KeyAt(position);
      source = from.RowAt(position);
      target = to.RowAt(FindKey<false, false>(to, to.layout.PlaceOf(key), key).position);
    }
  }
  __syncwarp();
  CopyRows<4, true>(scratches[threadIdx.x / 32], source, target, to.row_bytes, word_bytes);
}

}  // namespace device

template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::Grow(uint64_t capacity, cudaStream_t stream) {
  if (storage_->view.pinned != nullptr) CheckNoPins(stream);
  auto bigger = std::make_unique<DeviceStorage>(options_, capacity, row_bytes_);
  ClearStorage(*bigger, stream);
  PlaceKeys(*bigger, stream);
  try {
    bigger->AllocateRows(options_);
  } catch (const MemoryRefused&) {
    MakeWay(bigger.get(), stream);
  }
  for (uint64_t first = 0; first < Capacity(); first += kRowsAtOnce) {
    const uint64_t end = std::min(first + kRowsAtOnce, Capacity());
    device::MoveRowsKernel<device::kThreads><<<Blocks(end - first), device::kThreads, 0, stream>>>(
        storage_->view, bigger->view, first, end, WordBytes(0, nullptr));
  }
  CheckCuda(cudaGetLastError(), "growing");
  CheckCuda(cudaStreamSynchronize(stream), "growing");
  storage_ = std::move(bigger);
}

// Brings all keys and scores, without rows, into another storage.
template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::PlaceKeys(const DeviceStorage& to,
                                                        cudaStream_t stream) {
  const uint64_t step = std::min(kRowsAtOnce, Capacity());
  const TableMemory keys(options_.allocator, MemoryKind::kDevice, step * 8, "keys that move");
  const TableMemory scores(options_.allocator, MemoryKind::kDevice, step * 8, "scores that move");
  uint64_t moved = 0;
  for (uint64_t first = 0; first < Capacity(); first += step) {
    device::ExportArgs out;
    out.begin = first;
    out.end = std::min(first + step, Capacity());
    out.keys = keys.As<uint64_t>();
    out.scores = scores.As<uint64_t>();
    out.count = counter_.As<uint64_t>();
    Scan(out, stream);
    device::UpsertArgs args;
    args.n = ReadCounter(stream);
    if (args.n == 0) continue;
    moved += args.n;
    args.keys = out.keys;
    args.scores = out.scores;
    args.verbatim = true;
    Launch<WriteMode::kInsertOrAssign>(to, args, stream);
  }
  const uint64_t stored = CountOf(to, stream);
  if (stored != moved) {
    accel::Fail("reserve: ", moved - stored, " of ", moved, " live keys do not fit into ",
                to.view.layout.capacity, " rows without an eviction");
  }
}

// Memory for the new rows while the old ones of device memory wait in pinned host memory, where the
// kernels reach them: at every moment the table is whole.
template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::MakeWay(DeviceStorage* bigger, cudaStream_t stream) {
  const auto move_to = [&](MemoryKind kind, const char* what) {
    TableMemory rows(options_.allocator, kind, storage_->hbm_rows.bytes(), what);
    CheckCuda(cudaMemcpyAsync(rows.As<char>(), storage_->hbm_rows.As<char>(), rows.bytes(),
                              cudaMemcpyDefault, stream),
              "growing");
    CheckCuda(cudaStreamSynchronize(stream), "growing");
    storage_->SetHbmRows(std::move(rows));
  };
  move_to(MemoryKind::kPinnedHost, "rows that wait while the table grows");
  try {
    bigger->AllocateRows(options_);
  } catch (const MemoryRefused&) {
    try {
      move_to(MemoryKind::kDevice, "rows");
    } catch (const MemoryRefused&) {
      // Somebody else took it: the rows stay in host memory.
    }
    throw;
  }
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

}  // namespace hkv
