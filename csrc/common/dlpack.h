// File: dlpack.h
//
// The structures of DLPack (https://dmlc.github.io/dlpack): the capsules named "dltensor", and
// those named "dltensor_versioned" of version 1, which also say whether their memory may be
// written.
#pragma once

#include <cstdint>

namespace accel {

constexpr int32_t kDLCuda = 2;

struct DLDevice {
  int32_t device_type;
  int32_t device_id;
};

struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements, or null: C order
  uint64_t byte_offset;
};

struct DLManagedTensor {
  static constexpr const char* kCapsule = "dltensor";
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};

struct DLVersion {
  uint32_t major;
  uint32_t minor;
};

struct DLManagedTensorVersioned {
  static constexpr const char* kCapsule = "dltensor_versioned";
  static constexpr uint32_t kMajor = 1;
  static constexpr uint64_t kReadOnly = 1;  // a bit of `flags`
  DLVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  uint64_t flags;
  DLTensor dl_tensor;
};

}  // namespace accel
