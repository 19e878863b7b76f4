// File: {name}.cu
//
// One instantiation of the GPU hash table, written from instance.cu.tpl and instances.bzl.
#include "csrc/hkv/instance.h"

#include "csrc/hkv/engine.cuh"
#include "csrc/hkv/engine_table.h"

namespace hkv {

template <>
std::unique_ptr<Table> MakeDeviceTable<{KEY}, {VALUE}, EvictStrategy::{STRATEGY}>(
    const HashTableOptions& options) {
  using Engine = DeviceEngine<{KEY}, {VALUE}, EvictStrategy::{STRATEGY}>;
  return std::make_unique<EngineTable<Engine>>(options);
}

}  // namespace hkv
