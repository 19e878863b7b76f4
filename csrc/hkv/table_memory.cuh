// File: table_memory.cuh
//
// The owner of one piece of a table's memory. Host code only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <utility>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/allocator.h"

namespace hkv {

using accel::CheckCuda;

class TableMemory {
 public:
  TableMemory() = default;
  // Of the current device; throws MemoryRefused where there is no such memory.
  TableMemory(const Allocator& allocator, MemoryKind kind, uint64_t bytes, const char* what)
      : allocator_(allocator), kind_(kind), bytes_(bytes) {
    if (bytes == 0) return;
    CheckCuda(cudaGetDevice(&device_), "cudaGetDevice");
    const bool host = kind == MemoryKind::kPinnedHost;
    const char* why = "the caller's allocator has none";
    if (allocator.allocate != nullptr) {
      data_ = allocator.allocate(allocator.context, kind, bytes);
    } else {
      const cudaError_t error =
          host ? cudaHostAlloc(&data_, bytes, cudaHostAllocMapped | cudaHostAllocPortable)
               : cudaMalloc(&data_, bytes);
      if (error != cudaSuccess) data_ = nullptr;
      if (error == cudaErrorMemoryAllocation) cudaGetLastError();  // the next call starts clean
      if (error != cudaErrorMemoryAllocation) CheckCuda(error, Text(bytes, host, what));
      why = cudaGetErrorString(error);
    }
    if (data_ == nullptr) throw MemoryRefused(Text(bytes, host, what) + ": " + why);
  }
  ~TableMemory() { Release(); }
  TableMemory(TableMemory&& other) noexcept { *this = std::move(other); }
  TableMemory& operator=(TableMemory&& other) noexcept {
    if (this == &other) return *this;
    Release();
    allocator_ = other.allocator_;
    kind_ = other.kind_;
    device_ = other.device_;
    bytes_ = std::exchange(other.bytes_, 0);
    data_ = std::exchange(other.data_, nullptr);
    return *this;
  }

  template <class T>
  T* As() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  static std::string Text(uint64_t bytes, bool host, const char* what) {
    return accel::ErrorText("allocating ", bytes, " bytes of ", host ? "pinned host" : "device",
                            " memory for ", what);
  }

  void Release() {
    if (data_ == nullptr) return;
    if (allocator_.allocate != nullptr) {
      int previous = 0;
      cudaGetDevice(&previous);
      cudaSetDevice(device_);
      cudaDeviceSynchronize();
      allocator_.free(allocator_.context, kind_, data_, bytes_);
      cudaSetDevice(previous);
    } else if (kind_ == MemoryKind::kDevice) {
      cudaFree(data_);
    } else {
      cudaFreeHost(data_);
    }
    data_ = nullptr;
    bytes_ = 0;
  }

  Allocator allocator_;
  MemoryKind kind_ = MemoryKind::kDevice;
  int device_ = 0;
  uint64_t bytes_ = 0;
  void* data_ = nullptr;
};

}  // namespace hkv
