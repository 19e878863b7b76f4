// File: batches.cuh
//
// What hkv::HashTable does with batches of keys: how a call becomes kernels. Part of
// hash_table.cuh.
#pragma once

#include <algorithm>
#include <memory>

#include "csrc/hkv/hash_table.cuh"

namespace hkv {

template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::Do(const Read& call, Stream on) {
  const cudaStream_t stream = CudaStream(on);
  bool in_order = false;
  Scope scope(this, stream,
              [&] { return in_order = UsesHostBins(*storage_, call.n, call.values, stream); });
  if (call.missed_size != nullptr) {
    CheckCuda(cudaMemsetAsync(call.missed_size, 0, 8, stream), call.name);
  }
  if (call.n == 0) return;
  device::LookupArgs args{call};
  args.pitch = Pitch(call.pitch);
  args.word_bytes = WordBytes(args.pitch, args.values);
  if (!in_order) {
    Launch(args, stream);
  } else {
    for (args.first = 0; args.first < call.n; args.first += HostBins::kKeys) {
      args.n = std::min(call.n, args.first + HostBins::kKeys);
      args.host = host_bins_->Start(stream);
      Launch(args, stream);
      LaunchHostRows(*storage_, args, args.host, stream);
    }
  }
  scope.Launched(call.name);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <class Args>
void HashTable<Key, Value, Score, kStrategy>::LaunchHostRows(const DeviceStorage& storage,
                                                             const Args& args,
                                                             const device::HostMoves& host,
                                                             cudaStream_t stream) const {
  device::SortBinKernel<device::kThreads><<<device::kHostBins, device::kThreads, 0, stream>>>(host);
  device::HostRowsKernel<device::kHostThreads>
      <<<device::kHostBlocks, device::kHostThreads, 0, stream>>>(storage.view, args.values,
                                                                 args.pitch, args.word_bytes, host);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
bool HashTable<Key, Value, Score, kStrategy>::UsesHostBins(const DeviceStorage& storage, uint64_t n,
                                                           const char* values,
                                                           cudaStream_t stream) const {
  if (values == nullptr || !IsHybrid(storage)) return false;
  if (n < HostBins::kFrom || n >> 31 != 0) return false;
  if (!TakeTurns(stream, host_bins_.get())) return false;
  try {
    if (host_bins_ == nullptr) host_bins_ = std::make_unique<HostBins>(options_.allocator);
  } catch (const MemoryRefused&) {
    return false;  // slower, but without it
  }
  return true;
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::Do(const Write& call, Stream on) {
  Scope scope(this, CudaStream(on), true);
  if (call.evicted_count != nullptr) {
    CheckCuda(cudaMemsetAsync(call.evicted_count, 0, 8, scope.stream), call.name);
  }
  if (UsesHolders(call)) NeedHolders(call.name, scope.stream);
  if (call.n == 0) return;
  if (Inserts(call.mode)) MakeRoom(call.n, call.keys, scope.stream);
  Launch(*storage_, call, scope.stream);
  scope.Launched(call.name);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
void HashTable<Key, Value, Score, kStrategy>::Launch(const DeviceStorage& storage,
                                                     const Write& call, cudaStream_t stream) {
  const unsigned blocks = Blocks(call.n);
  switch (call.mode) {
    case WriteMode::kInsertOrAssign:
      return Launch<WriteMode::kInsertOrAssign>(storage, {call}, stream);
    case WriteMode::kInsertAndEvict:
      return Launch<WriteMode::kInsertAndEvict>(storage, {call}, stream);
    case WriteMode::kFindOrInsert:
      return Launch<WriteMode::kFindOrInsert>(storage, {call}, stream);
    case WriteMode::kAccumOrAssign:
      return Launch<WriteMode::kAccumOrAssign>(storage, {call}, stream);
    case WriteMode::kAssign:
      return Launch<WriteMode::kAssign>(storage, {call}, stream);
    case WriteMode::kFindAndUpdate:
      return Launch<WriteMode::kFindAndUpdate>(storage, {call}, stream);
    case WriteMode::kErase:
      device::EraseKernel<device::kThreads>
          <<<blocks, device::kThreads, 0, stream>>>(storage.view, call);
      return;
    case WriteMode::kLock:
    case WriteMode::kHold:
    case WriteMode::kUnlock:
    case WriteMode::kUnlockRows:
      device::HoldersKernel<device::kThreads>
          <<<blocks, device::kThreads, 0, stream>>>(storage.view, call);
      return;
  }
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <WriteMode kMode>
void HashTable<Key, Value, Score, kStrategy>::Launch(const DeviceStorage& storage,
                                                     device::UpsertArgs args, cudaStream_t stream) {
  Complete(&args);
  if constexpr (kMode != WriteMode::kAccumOrAssign) {
    if (GoesInPasses(storage, args, stream)) {
      for (uint64_t first = 0; first < args.n; first += PassMemory::kKeys) {
        LaunchPasses<kMode>(storage, Part(args, first), args.n, stream);
      }
      return;
    }
  }
  if (!TellsEqualsApart(args.n, stream)) {
    LaunchUpsertOf<kMode>(storage.view, args, device::Equals(), Blocks(args.n), false, stream);
    return;
  }
  for (uint64_t first = 0; first < args.n; first += EqualsMemory::kKeys) {
    LaunchTogether<kMode>(storage, Part(args, first), stream);
  }
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
bool HashTable<Key, Value, Score, kStrategy>::GoesInPasses(const DeviceStorage& storage,
                                                           const device::UpsertArgs& args,
                                                           cudaStream_t stream) {
  const uint64_t from = IsHybrid(storage) ? options_.passes_from / 16 : options_.passes_from;
  if (args.n < from || args.pin || !TakeTurns(stream, pass_memory_.get())) return false;
  // Both now: a refusal must come before anything is launched.
  if (pass_memory_ == nullptr) pass_memory_ = std::make_unique<PassMemory>(options_.allocator);
  NeedEqualsMemory(stream);
  return true;
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
device::UpsertArgs HashTable<Key, Value, Score, kStrategy>::Part(device::UpsertArgs args,
                                                                 uint64_t first) const {
  const uint64_t left = args.n - first;
  args.n = std::min(left, PassMemory::kKeys);
  args.ends_call = args.hands_out && args.n == left;
  const auto advance = [&](auto*& array, uint64_t step) {
    if (array != nullptr) array += first * step;
  };
  advance(args.keys, 1);
  advance(args.scores, 1);
  advance(args.values, args.pitch);
  advance(args.rows, 1);
  advance(args.row_numbers, 1);
  advance(args.accums, 1);
  advance(args.founds, 1);
  advance(args.out_scores, 1);
  advance(args.status, 1);
  return args;
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <WriteMode kMode>
void HashTable<Key, Value, Score, kStrategy>::LaunchPasses(const DeviceStorage& storage,
                                                           device::UpsertArgs args, uint64_t whole,
                                                           cudaStream_t stream) {
  // A call whose scores are of its time needs no marks on the rows that it hands out.
  const bool by_time =
      args.hands_out && args.ends_call && args.rule == ScoreRule::kClock && args.n == whole;
  device::Plan plan = pass_memory_->Start(storage, args.n, args.hands_out && !by_time, stream);
  plan.more_follows = args.hands_out && !args.ends_call;
  if (by_time) {
    args.since = plan.counters + device::kSince;
    args.ends_call = false;
  }
  if (UsesHostBins(storage, args.n, args.values, stream)) plan.host = host_bins_->Start(stream);
  const device::View& view = storage.view;
  const unsigned blocks = Blocks(args.n);
  LaunchClaim(kMode, view, args, plan, blocks, stream);
  if (plan.host.sizes != nullptr) {
    LaunchHostRows(storage, args, plan.host, stream);
  }
  if (Inserts(kMode)) {
    const bool knows = device::KnowsLowest(args);
    if (knows) {
      LaunchEvictKnown(kMode, view, args, plan, Resident(blocks, device::kKnownBlocks), stream);
    }
    const unsigned wanted = std::max(blocks, Blocks(view.layout.num_buckets));
    const int resident = knows ? device::kPendingBlocks : device::kEvictBlocks;
    LaunchEvict(kMode, view, args, plan, Resident(wanted, resident), stream);
  }
  args.list = plan.rest;
  args.list_size = plan.counters + device::kRest;
  LaunchTogether<kMode>(storage, args, stream);
}

}  // namespace hkv
