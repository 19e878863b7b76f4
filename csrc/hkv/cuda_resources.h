// File: cuda_resources.h
//
// Owners of CUDA memory and the ordering of calls from several streams. Host code only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace hkv {

inline void CheckCuda(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call starts clean
  throw std::runtime_error("hkv: " + what + ": " + cudaGetErrorString(error));
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

enum class MemoryKind { kDevice, kPinnedHost };

class Buffer {
 public:
  Buffer() = default;
  Buffer(MemoryKind kind, uint64_t bytes, const char* what) : kind_(kind) {
    if (bytes == 0) return;
    const bool device = kind == MemoryKind::kDevice;
    const cudaError_t error =
        device ? cudaMalloc(&data_, bytes)
               : cudaHostAlloc(&data_, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
    CheckCuda(error, std::string("allocating ") + std::to_string(bytes) + " bytes of " +
                         (device ? "device" : "pinned host") + " memory for " + what);
  }
  ~Buffer() { Release(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    Release();
    kind_ = other.kind_;
    data_ = std::exchange(other.data_, nullptr);
    return *this;
  }

  template <class T>
  T* As() const {
    return static_cast<T*>(data_);
  }

 private:
  void Release() {
    if (data_ == nullptr) return;
    kind_ == MemoryKind::kDevice ? cudaFree(data_) : cudaFreeHost(data_);
    data_ = nullptr;
  }

  MemoryKind kind_ = MemoryKind::kDevice;
  void* data_ = nullptr;
};

// A reader-writer lock among streams, kept on the device by events: a writing call waits for the
// calls before it on other streams, a reading call for the last writing one. The host never waits.
// Calls that are being captured into a graph are neither waited for nor wait.
class StreamOrder {
 public:
  explicit StreamOrder(bool enabled) : enabled_(enabled) {}
  ~StreamOrder() {
    for (Entry& entry : readers_) cudaEventDestroy(entry.event);
    if (writer_.event != nullptr) cudaEventDestroy(writer_.event);
  }
  StreamOrder(const StreamOrder&) = delete;
  StreamOrder& operator=(const StreamOrder&) = delete;

  // Whether calls on this stream are ordered now.
  bool Applies(cudaStream_t stream) const {
    if (!enabled_) return false;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CheckCuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    return status == cudaStreamCaptureStatusNone;
  }

  void Before(cudaStream_t stream, bool writes) {
    if (!Applies(stream)) return;
    Wait(stream, writer_);
    if (!writes) return;
    for (Entry& entry : readers_) Wait(stream, entry);
  }

  void After(cudaStream_t stream, bool writes) {
    if (!Applies(stream)) return;
    if (writes) {
      Record(stream, &writer_);
      for (Entry& entry : readers_) entry.active = false;
      return;
    }
    Entry* mine = nullptr;
    for (Entry& entry : readers_) {
      if (!entry.active || entry.stream == stream) mine = &entry;
      if (entry.active && entry.stream == stream) break;
    }
    if (mine == nullptr) {
      readers_.emplace_back();
      mine = &readers_.back();
    }
    Record(stream, mine);
  }

 private:
  struct Entry {
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    bool active = false;
  };

  static void Wait(cudaStream_t stream, const Entry& entry) {
    if (!entry.active || entry.stream == stream) return;
    CheckCuda(cudaStreamWaitEvent(stream, entry.event, 0), "cudaStreamWaitEvent");
  }

  static void Record(cudaStream_t stream, Entry* entry) {
    if (entry->event == nullptr) {
      CheckCuda(cudaEventCreateWithFlags(&entry->event, cudaEventDisableTiming), "cudaEventCreate");
    }
    CheckCuda(cudaEventRecord(entry->event, stream), "cudaEventRecord");
    entry->stream = stream;
    entry->active = true;
  }

  bool enabled_;
  Entry writer_;
  std::vector<Entry> readers_;
};

}  // namespace hkv
