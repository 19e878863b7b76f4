// File: module.cc
//
// The Python extension hkv._hkv: the virtual table with arrays as addresses, device memory for
// results, and DLPack in and out. Everything that has to do with dtypes and shapes is in the Python
// front (python/hkv).
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "csrc/common/cuda_memory.h"
#include "csrc/common/dlpack.h"
#include "csrc/hkv/table.h"

namespace py = pybind11;

ACCEL_PACKAGE("hkv");

namespace hkv {
namespace {

using accel::CheckCuda;
using accel::DeviceGuard;
using accel::DLManagedTensor;
using accel::DLTensor;

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

struct Exported {
  DLManagedTensor tensor;
  std::shared_ptr<DeviceMemory> memory;
  std::vector<int64_t> shape;
};

py::capsule ToDLPack(const std::shared_ptr<DeviceMemory>& memory, std::vector<int64_t> shape,
                     int code, int bits) {
  auto* exported = new Exported{{}, memory, std::move(shape)};
  DLTensor& t = exported->tensor.dl_tensor;
  t.data = memory->data();
  t.device = {accel::kDLCuda, memory->device()};
  t.ndim = static_cast<int32_t>(exported->shape.size());
  t.dtype = {static_cast<uint8_t>(code), static_cast<uint8_t>(bits), 1};
  t.shape = exported->shape.data();
  t.strides = nullptr;
  t.byte_offset = 0;
  exported->tensor.manager_ctx = exported;
  exported->tensor.deleter = [](DLManagedTensor* self) {
    delete static_cast<Exported*>(self->manager_ctx);
  };
  PyObject* capsule = PyCapsule_New(&exported->tensor, "dltensor", [](PyObject* object) {
    if (!PyCapsule_IsValid(object, "dltensor")) return;  // taken over by a consumer
    auto* tensor = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(object, "dltensor"));
    tensor->deleter(tensor);
  });
  if (capsule == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::capsule>(capsule);
}

// (address, device type, device id, type code, bits, shape, strides or None). The capsule is not
// consumed: keep it for as long as the address is used.
py::tuple FromDLPack(const py::object& capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    throw py::type_error(
        accel::ErrorText("__dlpack__ returned something that is not a 'dltensor' capsule"));
  }
  const auto* managed =
      static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  const DLTensor& t = managed->dl_tensor;
  if (t.dtype.lanes != 1) {
    throw py::type_error(accel::ErrorText("DLPack arrays of vector types are not taken"));
  }
  py::object strides = py::none();
  if (t.strides != nullptr) {
    strides = py::cast(std::vector<int64_t>(t.strides, t.strides + t.ndim));
  }
  return py::make_tuple(reinterpret_cast<Address>(t.data) + t.byte_offset, t.device.device_type,
                        t.device.device_id, t.dtype.code, t.dtype.bits,
                        std::vector<int64_t>(t.shape, t.shape + t.ndim), strides);
}

template <class Enum>
Enum ByName(const std::string& name, int count, const char* argument) {
  std::string allowed;
  for (int i = 0; i < count; ++i) {
    if (name == Name(static_cast<Enum>(i))) return static_cast<Enum>(i);
    allowed += (i == 0 ? "" : ", ") + std::string(Name(static_cast<Enum>(i)));
  }
  accel::FailArgument(argument, " is '", name, "'; it must be one of ", allowed);
}

std::unique_ptr<Table> Create(bool on_device, const std::string& key, const std::string& value,
                              const std::string& strategy, const HashTableOptions& options,
                              int num_threads) {
  const auto key_type = ByName<KeyType>(key, 2, "key_dtype");
  const auto value_type = ByName<ValueType>(value, 3, "value_dtype");
  const auto evict = ByName<EvictStrategy>(strategy, 5, "evict_strategy");
  return on_device ? CreateDeviceTable(options, key_type, value_type, evict)
                   : CreateHostTable(options, key_type, value_type, evict, num_threads);
}

int DeviceCount() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::tuple<uint64_t, uint64_t, uint64_t, uint64_t> Fields(const Predicate& p) {
  return {p.key_mask, p.key_pattern, p.score_min, p.score_max};
}

}  // namespace
}  // namespace hkv

PYBIND11_MODULE(_hkv, m) {
  using namespace hkv;  // NOLINT: the module is the one user of every name
  m.doc() = "Hash tables with arrays as addresses; use the classes of the package hkv.";
  const py::call_guard<py::gil_scoped_release> unlocked;

  py::class_<HashTableOptions>(m, "Options")
      .def(py::init<>())
      .def_readwrite("init_capacity", &HashTableOptions::init_capacity)
      .def_readwrite("max_capacity", &HashTableOptions::max_capacity)
      .def_readwrite("max_hbm_for_vectors", &HashTableOptions::max_hbm_for_vectors)
      .def_readwrite("dim", &HashTableOptions::dim)
      .def_readwrite("max_load_factor", &HashTableOptions::max_load_factor)
      .def_readwrite("device_id", &HashTableOptions::device_id)
      .def_readwrite("passes_from", &HashTableOptions::passes_from)
      .def_readwrite("api_lock", &HashTableOptions::api_lock);

  py::class_<Predicate>(m, "Predicate")
      .def(py::init([](uint64_t mask, uint64_t pattern, uint64_t low, uint64_t high) {
             return Predicate{mask, pattern, low, high};
           }),
           py::arg("key_mask"), py::arg("key_pattern"), py::arg("score_min"), py::arg("score_max"))
      .def("fields", &Fields);

  py::class_<Table>(m, "Table")
      .def(
          "find",
          [](Table& t, size_t n, Address keys, Address values, Address founds, Address scores,
             Address stream) {
            t.find(n, At<uint64_t>(keys), At<void>(values), At<bool>(founds), At<uint64_t>(scores),
                   At<void>(stream));
          },
          unlocked)
      .def(
          "find_pointers",
          [](Table& t, size_t n, Address keys, Address rows, Address founds, Address scores,
             Address stream) {
            t.find_pointers(n, At<uint64_t>(keys), At<void*>(rows), At<bool>(founds),
                            At<uint64_t>(scores), At<void>(stream));
          },
          unlocked)
      .def(
          "find_missed",
          [](Table& t, size_t n, Address keys, Address values, Address missed_keys,
             Address missed_indices, Address missed_size, Address scores, Address stream) {
            t.find_missed(n, At<uint64_t>(keys), At<void>(values), At<uint64_t>(missed_keys),
                          At<int32_t>(missed_indices), At<uint64_t>(missed_size),
                          At<uint64_t>(scores), At<void>(stream));
          },
          unlocked)
      .def(
          "contains",
          [](Table& t, size_t n, Address keys, Address founds, Address stream) {
            t.contains(n, At<uint64_t>(keys), At<bool>(founds), At<void>(stream));
          },
          unlocked)
      .def(
          "find_and_update",
          [](Table& t, size_t n, Address keys, Address values, Address founds, Address scores,
             Address status, Address stream) {
            t.find_and_update(n, At<uint64_t>(keys), At<void>(values), At<bool>(founds),
                              At<uint64_t>(scores), At<uint8_t>(status), At<void>(stream));
          },
          unlocked)
      .def(
          "find_or_insert",
          [](Table& t, size_t n, Address keys, Address values, Address founds, Address scores,
             Address status, Address stream) {
            t.find_or_insert(n, At<uint64_t>(keys), At<void>(values), At<bool>(founds),
                             At<uint64_t>(scores), At<uint8_t>(status), At<void>(stream));
          },
          unlocked)
      .def(
          "find_or_insert_pointers",
          [](Table& t, size_t n, Address keys, Address rows, Address founds, Address scores,
             bool lock, Address status, Address stream) {
            t.find_or_insert_pointers(n, At<uint64_t>(keys), At<void*>(rows), At<bool>(founds),
                                      At<uint64_t>(scores), lock, At<uint8_t>(status),
                                      At<void>(stream));
          },
          unlocked)
      .def(
          "insert_or_assign",
          [](Table& t, size_t n, Address keys, Address values, Address scores,
             bool ignore_evict_strategy, Address status, Address stream) {
            t.insert_or_assign(n, At<uint64_t>(keys), At<void>(values), At<uint64_t>(scores),
                               ignore_evict_strategy, At<uint8_t>(status), At<void>(stream));
          },
          unlocked)
      .def(
          "insert_and_evict",
          [](Table& t, size_t n, Address keys, Address values, Address scores, Address evicted_keys,
             Address evicted_values, Address evicted_scores, Address evicted_count,
             bool ignore_evict_strategy, Address status, Address stream) {
            t.insert_and_evict(n, At<uint64_t>(keys), At<void>(values), At<uint64_t>(scores),
                               At<uint64_t>(evicted_keys), At<void>(evicted_values),
                               At<uint64_t>(evicted_scores), At<uint64_t>(evicted_count),
                               ignore_evict_strategy, At<uint8_t>(status), At<void>(stream));
          },
          unlocked)
      .def(
          "accum_or_assign",
          [](Table& t, size_t n, Address keys, Address values, Address accums, Address scores,
             Address status, Address stream) {
            t.accum_or_assign(n, At<uint64_t>(keys), At<void>(values), At<bool>(accums),
                              At<uint64_t>(scores), At<uint8_t>(status), At<void>(stream));
          },
          unlocked)
      .def(
          "assign",
          [](Table& t, size_t n, Address keys, Address values, Address scores, Address status,
             Address stream) {
            t.assign(n, At<uint64_t>(keys), At<void>(values), At<uint64_t>(scores),
                     At<uint8_t>(status), At<void>(stream));
          },
          unlocked)
      .def(
          "assign_values",
          [](Table& t, size_t n, Address keys, Address values, Address status, Address stream) {
            t.assign_values(n, At<uint64_t>(keys), At<void>(values), At<uint8_t>(status),
                            At<void>(stream));
          },
          unlocked)
      .def(
          "assign_scores",
          [](Table& t, size_t n, Address keys, Address scores, Address status, Address stream) {
            t.assign_scores(n, At<uint64_t>(keys), At<uint64_t>(scores), At<uint8_t>(status),
                            At<void>(stream));
          },
          unlocked)
      .def(
          "erase",
          [](Table& t, size_t n, Address keys, Address status, Address stream) {
            t.erase(n, At<uint64_t>(keys), At<uint8_t>(status), At<void>(stream));
          },
          unlocked)
      .def(
          "erase_if",
          [](Table& t, const Predicate& p, Address stream) {
            return t.erase_if(p, At<void>(stream));
          },
          unlocked)
      .def(
          "clear", [](Table& t, Address stream) { t.clear(At<void>(stream)); }, unlocked)
      .def(
          "lock_keys",
          [](Table& t, size_t n, Address keys, Address succeeded, Address stream) {
            t.lock_keys(n, At<uint64_t>(keys), At<bool>(succeeded), At<void>(stream));
          },
          unlocked)
      .def(
          "unlock_keys",
          [](Table& t, size_t n, Address keys, Address succeeded, Address stream) {
            t.unlock_keys(n, At<uint64_t>(keys), At<bool>(succeeded), At<void>(stream));
          },
          unlocked)
      .def(
          "export_batch_if",
          [](const Table& t, const Predicate& p, size_t n, size_t offset, Address count,
             Address keys, Address values, Address scores, Address stream) {
            const_cast<Table&>(t).export_batch_if(p, n, offset, At<uint64_t>(count),
                                                  At<uint64_t>(keys), At<void>(values),
                                                  At<uint64_t>(scores), At<void>(stream));
          },
          unlocked)
      .def(
          "size", [](const Table& t, Address stream) { return t.size(At<void>(stream)); }, unlocked)
      .def(
          "size_if",
          [](const Table& t, const Predicate& p, Address stream) {
            return t.size_if(p, At<void>(stream));
          },
          unlocked)
      .def("capacity", &Table::capacity)
      .def("max_capacity", &Table::max_capacity)
      .def(
          "reserve",
          [](Table& t, uint64_t capacity, Address stream) {
            t.reserve(capacity, At<void>(stream));
          },
          unlocked)
      .def("set_global_epoch", &Table::set_global_epoch)
      .def(
          "save",
          [](const Table& t, const std::string& path, Address stream) {
            return t.save(path, At<void>(stream));
          },
          unlocked)
      .def(
          "load",
          [](Table& t, const std::string& path, Address stream) {
            return t.load(path, At<void>(stream));
          },
          unlocked)
      .def(
          "synchronize", [](const Table& t, Address stream) { t.synchronize(At<void>(stream)); },
          unlocked)
      .def("dim", &Table::dim)
      .def("device", &Table::device)
      .def("key_type", [](const Table& t) { return Name(t.key_type()); })
      .def("value_type", [](const Table& t) { return Name(t.value_type()); })
      .def("evict_strategy", [](const Table& t) { return Name(t.evict_strategy()); })
      .def("engine", &Table::engine);

  m.def("create", &Create, py::arg("on_device"), py::arg("key"), py::arg("value"),
        py::arg("strategy"), py::arg("options"), py::arg("num_threads"), unlocked);
  m.def("device_count", &DeviceCount);
  m.def(
      "synchronize_stream",
      [](Address stream) {
        CheckCuda(cudaStreamSynchronize(At<CUstream_st>(stream)), "cudaStreamSynchronize");
      },
      unlocked);

  py::class_<DeviceMemory, std::shared_ptr<DeviceMemory>>(m, "DeviceMemory")
      .def(py::init<size_t, int, Address>(), py::arg("bytes"), py::arg("device"), py::arg("stream"))
      .def_property_readonly(
          "address", [](const DeviceMemory& d) { return reinterpret_cast<Address>(d.data()); })
      .def_property_readonly("bytes", &DeviceMemory::bytes)
      .def_property_readonly("device", &DeviceMemory::device)
      .def("to_host", &DeviceMemory::ToHost, unlocked)
      .def("from_host", &DeviceMemory::FromHost, unlocked);
  m.def("to_dlpack", &ToDLPack);
  m.def("from_dlpack", &FromDLPack);
}
