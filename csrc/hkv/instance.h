// File: instance.h
//
// The seam between the factory and the instantiations: each of them defines one
// MakeDeviceTable (see instances.bzl and instance.cu.tpl), the factory picks one.
#pragma once

#include <memory>

#include "csrc/hkv/table.h"

namespace hkv {

template <class Key, class Value, EvictStrategy kStrategy>
std::unique_ptr<Table> MakeDeviceTable(const HashTableOptions& options);

}  // namespace hkv
