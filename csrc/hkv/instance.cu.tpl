// File: {name}.cu
//
// One instantiation of the GPU hash table, written from instance.cu.tpl and instances.bzl.
#define HKV_KERNELS_APART  // they are in native_*.cu
#include "csrc/hkv/instance.h"

#include "csrc/hkv/engine.cuh"

namespace hkv {

template <>
std::unique_ptr<Table> MakeDeviceTable<{KEY}, {VALUE}, EvictStrategy::{STRATEGY}>(
    const HashTableOptions& options) {
  return std::make_unique<DeviceEngine<{KEY}, {VALUE}, EvictStrategy::{STRATEGY}>>(options);
}

}  // namespace hkv
