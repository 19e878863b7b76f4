// File: engine.cuh
//
// The GPU engine that the instantiations are built on: the table of this repository, or, with
// HKV_ENGINE_UPSTREAM defined (--//third_party/hierarchical_kv:engine=upstream), NVIDIA
// HierarchicalKV.
#pragma once

#include "csrc/hkv/types.h"

#if defined(HKV_ENGINE_UPSTREAM)
#include "csrc/hkv/upstream_adapter.cuh"
#else
#include "csrc/hkv/hash_table.cuh"
#endif

namespace hkv {

template <class Key, class Value, EvictStrategy kStrategy>
#if defined(HKV_ENGINE_UPSTREAM)
using DeviceEngine = UpstreamTable<Key, Value, uint64_t, kStrategy>;
#else
using DeviceEngine = HashTable<Key, Value, uint64_t, kStrategy>;
#endif

}  // namespace hkv
