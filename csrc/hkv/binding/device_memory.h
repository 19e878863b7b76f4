// File: device_memory.h
//
// What a binding needs beside the table: memory for results on the device, and when a call on it
// has ended. Addresses are integers, as they come from other languages.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "csrc/common/cuda_memory.h"
#include "csrc/common/dlpack.h"

namespace hkv {

using accel::CheckCuda;
using accel::DeviceGuard;

using Address = uintptr_t;

template <class T>
T* At(Address address) {
  return reinterpret_cast<T*>(address);
}

// Device memory for results, zeroed; allocated and freed in the order of one stream.
class DeviceMemory {
 public:
  DeviceMemory(size_t bytes, int device, Address stream) : device_(device) {
    DeviceGuard guard(device);
    memory_ = accel::Buffer(bytes, "results", At<CUstream_st>(stream));
    CheckCuda(cudaMemsetAsync(data(), 0, bytes, At<CUstream_st>(stream)), "cudaMemsetAsync");
  }

  void* data() const { return memory_.As<void>(); }
  size_t bytes() const { return memory_.bytes(); }
  int device() const { return device_; }

  void ToHost(Address to, Address stream) const { Copy(At<void>(to), data(), stream); }
  void FromHost(Address from, Address stream) { Copy(data(), At<void>(from), stream); }

 private:
  void Copy(void* to, const void* from, Address stream) const {
    DeviceGuard guard(device_);
    const auto s = At<CUstream_st>(stream);
    CheckCuda(cudaMemcpyAsync(to, from, bytes(), cudaMemcpyDefault, s), "copying an array");
    CheckCuda(cudaStreamSynchronize(s), "copying an array");
  }

  accel::Buffer memory_;
  int device_;
};

// A tensor over the memory, which it keeps until its deleter is called.
inline accel::DLManagedTensor* ExportMemory(std::shared_ptr<DeviceMemory> memory,
                                            std::vector<int64_t> shape, int code, int bits) {
  struct Exported {
    accel::DLManagedTensor tensor;
    std::shared_ptr<DeviceMemory> memory;
    std::vector<int64_t> shape;
  };
  auto* exported = new Exported{{}, std::move(memory), std::move(shape)};
  accel::DLTensor& t = exported->tensor.dl_tensor;
  t.data = exported->memory->data();
  t.device = {accel::kDLCuda, exported->memory->device()};
  t.ndim = static_cast<int32_t>(exported->shape.size());
  t.dtype = {static_cast<uint8_t>(code), static_cast<uint8_t>(bits), 1};
  t.shape = exported->shape.data();
  t.strides = nullptr;
  t.byte_offset = 0;
  exported->tensor.manager_ctx = exported;
  exported->tensor.deleter = [](accel::DLManagedTensor* self) {
    delete static_cast<Exported*>(self->manager_ctx);
  };
  return &exported->tensor;
}

// What stands before this on a stream. A stream that is being captured has nothing to wait for.
class Event {
 public:
  Event(int device, Address stream) {
    DeviceGuard guard(device);
    const auto s = At<CUstream_st>(stream);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CheckCuda(cudaStreamIsCapturing(s, &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone) return;
    CheckCuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
    CheckCuda(cudaEventRecord(event_, s), "cudaEventRecord");
  }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // Does not disturb a capture that is going on.
  bool Done() const {
    if (event_ == nullptr) return true;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    const bool done = cudaEventQuery(event_) != cudaErrorNotReady;
    cudaThreadExchangeStreamCaptureMode(&mode);
    return done;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// How many GPUs this machine can use.
inline int DeviceCount() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

}  // namespace hkv
