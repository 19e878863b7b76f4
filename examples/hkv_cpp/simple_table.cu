// File: simple_table.cu
//
// The GPU table from C++, without anything but its headers and the CUDA runtime, in memory of the
// program's own:
//
//   nvcc -std=c++17 -arch=sm_80 -I. examples/hkv_cpp/simple_table.cu -o simple_table &&
//   ./simple_table
#include <cstdint>
#include <cstdio>
#include <vector>

#include "csrc/hkv/hash_table.cuh"

ACCEL_PACKAGE("simple_table");  // what error messages begin with, once in a program

namespace program {

constexpr uint32_t kDim = 4;

// Counts what the table has taken.
struct Ledger {
  uint64_t bytes = 0;

  static void* Allocate(void* context, hkv::MemoryKind kind, uint64_t bytes) {
    void* memory = nullptr;
    const bool host = kind == hkv::MemoryKind::kPinnedHost;
    const cudaError_t error =
        host ? cudaHostAlloc(&memory, bytes, cudaHostAllocMapped | cudaHostAllocPortable)
             : cudaMalloc(&memory, bytes);
    if (error != cudaSuccess) return nullptr;
    static_cast<Ledger*>(context)->bytes += bytes;
    return memory;
  }
  static void Free(void* context, hkv::MemoryKind kind, void* memory, uint64_t bytes) {
    static_cast<Ledger*>(context)->bytes -= bytes;
    kind == hkv::MemoryKind::kPinnedHost ? cudaFreeHost(memory) : cudaFree(memory);
  }
};

template <class T>
T* OnDevice(const std::vector<T>& host) {
  T* device = nullptr;
  accel::CheckCuda(cudaMalloc(&device, host.size() * sizeof(T)), "cudaMalloc");
  accel::CheckCuda(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice),
                   "copying");
  return device;
}

int Run() {
  Ledger ledger;
  hkv::HashTableOptions options;
  options.init_capacity = 1000;
  options.max_capacity = hkv::kMaxCapacity;  // grows until memory refuses
  options.dim = kDim;
  options.allocator = {&ledger, Ledger::Allocate, Ledger::Free};
  hkv::HashTable<int64_t, float> table(options);

  const size_t n = 5000;
  std::vector<uint64_t> keys(n);
  std::vector<float> rows(n * kDim), got(n * kDim);
  for (size_t i = 0; i < n; ++i) {
    keys[i] = i * 7919;
    for (uint32_t d = 0; d < kDim; ++d) rows[i * kDim + d] = static_cast<float>(i) + d / 8.0f;
  }
  uint64_t* const device_keys = OnDevice(keys);
  float* const device_rows = OnDevice(rows);
  float* const device_got = OnDevice(got);

  table.insert_or_assign(n, device_keys, device_rows, nullptr, false, nullptr, nullptr);
  table.find(n, device_keys, device_got, nullptr, nullptr, nullptr);
  accel::CheckCuda(cudaMemcpy(got.data(), device_got, got.size() * 4, cudaMemcpyDeviceToHost),
                   "copying");
  const bool right = got == rows && table.size(nullptr) == n && table.capacity() >= 2 * n;
  std::printf("%llu keys in %llu rows, %llu bytes: %s\n",
              static_cast<unsigned long long>(table.size(nullptr)),
              static_cast<unsigned long long>(table.capacity()),
              static_cast<unsigned long long>(ledger.bytes), right ? "right" : "WRONG");
  cudaFree(device_keys);
  cudaFree(device_rows);
  cudaFree(device_got);
  return right ? 0 : 1;
}

}  // namespace program

int main() {
  try {
    return program::Run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
