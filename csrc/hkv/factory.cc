// File: factory.cc
//
// Picks the instantiation for a key type, a value type and an evict strategy given at run time.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "csrc/hkv/checks.h"
#include "csrc/hkv/instance.h"

namespace hkv {
namespace {

template <class Key, class Value>
std::unique_ptr<Table> PickStrategy(const HashTableOptions& options, EvictStrategy strategy) {
  switch (strategy) {
    case EvictStrategy::kLru:
      return MakeDeviceTable<Key, Value, EvictStrategy::kLru>(options);
    case EvictStrategy::kLfu:
      return MakeDeviceTable<Key, Value, EvictStrategy::kLfu>(options);
    case EvictStrategy::kEpochLru:
      return MakeDeviceTable<Key, Value, EvictStrategy::kEpochLru>(options);
    case EvictStrategy::kEpochLfu:
      return MakeDeviceTable<Key, Value, EvictStrategy::kEpochLfu>(options);
    default:
      return MakeDeviceTable<Key, Value, EvictStrategy::kCustomized>(options);
  }
}

template <class Key>
std::unique_ptr<Table> PickValue(const HashTableOptions& options, ValueType value,
                                 EvictStrategy strategy) {
  switch (value) {
    case ValueType::kFloat32:
      return PickStrategy<Key, float>(options, strategy);
    case ValueType::kFloat16:
      return PickStrategy<Key, __half>(options, strategy);
    default:
      return PickStrategy<Key, __nv_bfloat16>(options, strategy);
  }
}

}  // namespace

std::unique_ptr<Table> CreateDeviceTable(const HashTableOptions& options, KeyType key,
                                         ValueType value, EvictStrategy strategy) {
  const HashTableOptions checked = CheckedOptions(options);
  CheckOfLibrary(value);
  return key == KeyType::kInt64 ? PickValue<int64_t>(checked, value, strategy)
                                : PickValue<uint64_t>(checked, value, strategy);
}

}  // namespace hkv
