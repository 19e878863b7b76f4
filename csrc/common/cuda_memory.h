// File: cuda_memory.h
//
// Owners of CUDA memory, the current device, and what CUDA says when something fails. Host code
// only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <utility>

#include "csrc/common/errors.h"

namespace accel {

inline void CheckCuda(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call starts clean
  Fail(what, ": ", cudaGetErrorString(error));
}

// Makes a device current for the life of the object.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    CheckCuda(cudaGetDevice(&previous_), "cudaGetDevice");
    changed_ = device != previous_;
    if (changed_) CheckCuda(cudaSetDevice(device), "cudaSetDevice(" + std::to_string(device) + ")");
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

enum class MemoryKind { kDevice, kPinnedHost, kStreamOrdered };

// Memory of the current device (or pinned host memory that all devices reach), freed at the end of
// the object's life.
class Buffer {
 public:
  Buffer() = default;
  Buffer(MemoryKind kind, uint64_t bytes, const char* what) : Buffer(kind, bytes, what, nullptr) {}
  // Device memory that is allocated and freed in the order of `stream`.
  Buffer(uint64_t bytes, const char* what, cudaStream_t stream)
      : Buffer(MemoryKind::kStreamOrdered, bytes, what, stream) {}
  ~Buffer() { Release(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    Release();
    kind_ = other.kind_;
    device_ = other.device_;
    stream_ = other.stream_;
    bytes_ = std::exchange(other.bytes_, 0);
    data_ = std::exchange(other.data_, nullptr);
    return *this;
  }

  template <class T>
  T* As() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }
  int device() const { return device_; }

 private:
  Buffer(MemoryKind kind, uint64_t bytes, const char* what, cudaStream_t stream)
      : kind_(kind), stream_(stream), bytes_(bytes) {
    if (bytes == 0) return;
    CheckCuda(cudaGetDevice(&device_), "cudaGetDevice");
    const bool host = kind == MemoryKind::kPinnedHost;
    const cudaError_t error =
        host ? cudaHostAlloc(&data_, bytes, cudaHostAllocMapped | cudaHostAllocPortable)
        : kind == MemoryKind::kDevice ? cudaMalloc(&data_, bytes)
                                      : cudaMallocAsync(&data_, bytes, stream);
    CheckCuda(error, std::string("allocating ") + std::to_string(bytes) + " bytes of " +
                         (host ? "pinned host" : "device") + " memory for " + what);
  }

  void Release() {
    if (data_ == nullptr) return;
    if (kind_ == MemoryKind::kDevice) cudaFree(data_);
    if (kind_ == MemoryKind::kPinnedHost) cudaFreeHost(data_);
    if (kind_ == MemoryKind::kStreamOrdered) ReleaseInOrder();
    data_ = nullptr;
  }

  void ReleaseInOrder() {
    int previous = 0;
    cudaGetDevice(&previous);
    cudaSetDevice(device_);
    if (cudaFreeAsync(data_, stream_) != cudaSuccess) {  // the stream is gone
      cudaGetLastError();
      cudaDeviceSynchronize();
      cudaFree(data_);
    }
    cudaSetDevice(previous);
  }

  MemoryKind kind_ = MemoryKind::kDevice;
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  uint64_t bytes_ = 0;
  void* data_ = nullptr;
};

}  // namespace accel
