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
#include <type_traits>
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

// What Python gives for a parameter: an address where C++ has a pointer.
template <class T>
using Given = std::conditional_t<std::is_pointer<T>::value, Address, T>;

template <class T>
T Taken(Given<T> given) {
  if constexpr (std::is_pointer<T>::value) {
    return reinterpret_cast<T>(given);
  } else {
    return static_cast<T>(given);
  }
}

// A method of Table as Python calls it.
template <class Result, class... Parameters>
auto Bound(Result (Table::*method)(Parameters...)) {
  return [method](Table& table, Given<Parameters>... given) {
    return (table.*method)(Taken<Parameters>(given)...);
  };
}
template <class Result, class... Parameters>
auto Bound(Result (Table::*method)(Parameters...) const) {
  return [method](const Table& table, Given<Parameters>... given) {
    return (table.*method)(Taken<Parameters>(given)...);
  };
}

void BindOptions(py::module_& m) {
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
           py::arg("key_mask"), py::arg("key_pattern"), py::arg("score_min"), py::arg("score_max"));
}

void BindTable(py::module_& m) {
  py::class_<Table> table(m, "Table");
  const auto bind = [&](const char* name, auto method) {
    table.def(name, Bound(method), py::call_guard<py::gil_scoped_release>());
  };
  bind("find", &Table::find);
  bind("find_pointers", &Table::find_pointers);
  bind("find_missed", &Table::find_missed);
  bind("contains", &Table::contains);
  bind("find_and_update", &Table::find_and_update);
  bind("find_or_insert", &Table::find_or_insert);
  bind("find_or_insert_pointers", &Table::find_or_insert_pointers);
  bind("insert_or_assign", &Table::insert_or_assign);
  bind("insert_and_evict", &Table::insert_and_evict);
  bind("accum_or_assign", &Table::accum_or_assign);
  bind("assign", &Table::assign);
  bind("assign_values", &Table::assign_values);
  bind("assign_scores", &Table::assign_scores);
  bind("erase", &Table::erase);
  bind("erase_if", &Table::erase_if);
  bind("clear", &Table::clear);
  bind("lock_keys", &Table::lock_keys);
  bind("unlock_keys", &Table::unlock_keys);
  bind("export_batch_if", &Table::export_batch_if);
  bind("size", &Table::size);
  bind("size_if", &Table::size_if);
  bind("capacity", &Table::capacity);
  bind("reserve", &Table::reserve);
  bind("set_global_epoch", &Table::set_global_epoch);
  bind("set_clock", &Table::set_clock);
  bind("save", &Table::save);
  bind("load", &Table::load);
  bind("synchronize", &Table::synchronize);
  table.def("max_capacity", &Table::max_capacity)
      .def("dim", &Table::dim)
      .def("device", &Table::device)
      .def("key_type", [](const Table& t) { return Name(t.key_type()); })
      .def("value_type", [](const Table& t) { return Name(t.value_type()); })
      .def("evict_strategy", [](const Table& t) { return Name(t.evict_strategy()); })
      .def("engine", &Table::engine);
}

void BindMemory(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> unlocked;
  py::class_<DeviceMemory, std::shared_ptr<DeviceMemory>>(m, "DeviceMemory")
      .def(py::init<size_t, int, Address>(), py::arg("bytes"), py::arg("device"), py::arg("stream"))
      .def_property_readonly(
          "address", [](const DeviceMemory& d) { return reinterpret_cast<Address>(d.data()); })
      .def_property_readonly("bytes", &DeviceMemory::bytes)
      .def_property_readonly("device", &DeviceMemory::device)
      .def("to_host", &DeviceMemory::ToHost, unlocked)
      .def("from_host", &DeviceMemory::FromHost, unlocked);
  m.def(
      "synchronize_stream",
      [](Address stream) {
        CheckCuda(cudaStreamSynchronize(At<CUstream_st>(stream)), "cudaStreamSynchronize");
      },
      unlocked);
  m.def("to_dlpack", &ToDLPack);
  m.def("from_dlpack", &FromDLPack);
}

}  // namespace
}  // namespace hkv

PYBIND11_MODULE(_hkv, m) {
  m.doc() = "Hash tables with arrays as addresses; use the classes of the package hkv.";
  hkv::BindOptions(m);
  hkv::BindTable(m);
  hkv::BindMemory(m);
  m.def("create", &hkv::Create, py::arg("on_device"), py::arg("key"), py::arg("value"),
        py::arg("strategy"), py::arg("options"), py::arg("num_threads"),
        py::call_guard<py::gil_scoped_release>());
  m.def("device_count", &hkv::DeviceCount);
}
