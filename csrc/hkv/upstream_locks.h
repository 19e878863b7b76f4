// File: upstream_locks.h
//
// Which keys of a HierarchicalKV table are locked, and where they lie: upstream unlocks by address,
// and while a key is locked none of its lookups finds it. Host code; every call waits for its
// stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/checks.h"

namespace hkv {

template <class Key>
class UpstreamLocks {
 public:
  // keys (n) and addresses (n), null where nothing was locked, both on the device.
  void Remember(uint64_t n, const Key* keys, Key* const* addresses, cudaStream_t stream) {
    const std::vector<Key> locked = ToHost(n, keys, stream);
    const std::vector<Key*> places = ToHost(n, addresses, stream);
    for (uint64_t i = 0; i < n; ++i) {
      if (places[i] != nullptr) places_[locked[i]] = places[i];
    }
  }

  // Forgets the keys; writes the address of each, null for what was not locked, to `addresses` (n).
  void Take(uint64_t n, const Key* keys, Key** addresses, cudaStream_t stream) {
    const std::vector<Key> locked = ToHost(n, keys, stream);
    std::vector<Key*> places(n, nullptr);
    for (uint64_t i = 0; i < n; ++i) {
      const auto found = places_.find(locked[i]);
      if (found == places_.end()) continue;
      places[i] = found->second;
      places_.erase(found);
    }
    accel::CheckCuda(
        cudaMemcpyAsync(addresses, places.data(), n * sizeof(Key*), cudaMemcpyHostToDevice, stream),
        "writing addresses");
    accel::CheckCuda(cudaStreamSynchronize(stream), "writing addresses");
  }

  // Upstream would insert a key a second time that is locked already, or that comes twice.
  void CheckFree(const char* call, uint64_t n, const Key* keys, cudaStream_t stream) const {
    std::unordered_map<Key, uint64_t> seen;
    const std::vector<Key> asked = ToHost(n, keys, stream);
    for (uint64_t i = 0; i < n; ++i) {
      const auto [first, is_new] = seen.emplace(asked[i], i);
      if (!is_new) {
        FailArgument(call, ": keys[", first->second, "] and keys[", i, "] are both ", asked[i],
                     "; with lock the upstream engine takes distinct keys");
      }
      if (places_.count(asked[i]) != 0) {
        FailArgument(call, ": keys[", i, "] is ", asked[i],
                     ", which is locked; with lock the upstream engine takes keys that are not");
      }
    }
  }

  void Clear() { places_.clear(); }
  uint64_t size() const { return places_.size(); }

 private:
  template <class T>
  static std::vector<T> ToHost(uint64_t n, const T* array, cudaStream_t stream) {
    std::vector<T> copy(n);
    accel::CheckCuda(
        cudaMemcpyAsync(copy.data(), array, n * sizeof(T), cudaMemcpyDeviceToHost, stream),
        "reading keys");
    accel::CheckCuda(cudaStreamSynchronize(stream), "reading keys");
    return copy;
  }

  std::unordered_map<Key, Key*> places_;
};

}  // namespace hkv
