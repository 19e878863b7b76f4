// File: dynamic_variable.cc
//
// Making the tables of a set, and the registry of handles.
#include "csrc/dynamicemb/dynamic_variable.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "csrc/common/errors.h"
#include "csrc/hkv/checks.h"
#include "csrc/hkv/instance.h"

namespace accel::dynamicemb {
namespace {

using hkv::EvictStrategy;

std::unique_ptr<hkv::Table> OnDevice(const VariableOptions& options) {
  const hkv::HashTableOptions checked = hkv::CheckedOptions(options.table);
  switch (options.strategy) {
    case EvictStrategy::kLru:
      return hkv::MakeDeviceTable<int64_t, float, EvictStrategy::kLru>(checked);
    case EvictStrategy::kLfu:
      return hkv::MakeDeviceTable<int64_t, float, EvictStrategy::kLfu>(checked);
    default:
      return hkv::MakeDeviceTable<int64_t, float, EvictStrategy::kCustomized>(checked);
  }
}

struct Registry {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<DynamicVariable>> held;
  int64_t next = 1;
};

Registry& TheRegistry() {
  static auto* const registry = new Registry;  // outlives every owner
  return *registry;
}

}  // namespace

DynamicVariable::DynamicVariable(const std::vector<VariableOptions>& options, int device,
                                 int threads)
    : device_(device) {
  for (VariableOptions one : options) {
    one.table.device_id = device;
    tables_.push_back(device >= 0
                          ? OnDevice(one)
                          : hkv::CreateHostTable(one.table, hkv::KeyType::kInt64,
                                                 hkv::ValueType::kFloat32, one.strategy, threads));
    pointers_.push_back(tables_.back().get());
    row_bytes_ = std::max(row_bytes_, tables_.back()->row_bytes());
  }
}

hkv::Table& DynamicVariable::At(int64_t table, const char* op) const {
  Check(table >= 0 && table < size(), op, ": table is ", table, "; it must be from 0 to ",
        size() - 1);
  return *pointers_[static_cast<size_t>(table)];
}

int64_t Keep(std::shared_ptr<DynamicVariable> variable) {
  Registry& registry = TheRegistry();
  const std::lock_guard<std::mutex> guard(registry.mutex);
  registry.held[registry.next] = std::move(variable);
  return registry.next++;
}

std::shared_ptr<DynamicVariable> Held(int64_t handle) {
  Registry& registry = TheRegistry();
  const std::lock_guard<std::mutex> guard(registry.mutex);
  const auto found = registry.held.find(handle);
  Check(found != registry.held.end(), "set ", handle, " is not there (any more)");
  return found->second;
}

void Drop(int64_t handle) {
  Registry& registry = TheRegistry();
  std::shared_ptr<DynamicVariable> last;
  const std::lock_guard<std::mutex> guard(registry.mutex);
  const auto found = registry.held.find(handle);
  if (found == registry.held.end()) return;
  last = std::move(found->second);
  registry.held.erase(found);
}

}  // namespace accel::dynamicemb
