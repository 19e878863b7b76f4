// File: module.cc
//
// The Python extension hkv._hkv: the virtual table with arrays as addresses, device memory for
// results, and DLPack in and out. Everything that has to do with dtypes and shapes is in the Python
// front (python/hkv).
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <type_traits>

#include "csrc/common/errors.h"
#include "csrc/hkv/capsules.h"
#include "csrc/hkv/device_memory.h"
#include "csrc/hkv/table.h"

namespace py = pybind11;

ACCEL_PACKAGE("hkv");

namespace hkv {
namespace {

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
  py::class_<Event>(m, "Event").def(py::init<int, Address>()).def("done", &Event::Done);
  m.def("to_dlpack", &ToDLPack);
  m.def("from_dlpack", &FromDLPack);
}

}  // namespace
}  // namespace hkv

PYBIND11_MODULE(_hkv, m) {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    throw py::import_error(
        accel::ErrorText("only the main interpreter can import it, a sub-interpreter cannot"));
  }
  m.doc() = "Hash tables with arrays as addresses; use the classes of the package hkv.";
  hkv::BindOptions(m);
  hkv::BindTable(m);
  hkv::BindMemory(m);
  m.def("create", &hkv::Create, py::arg("on_device"), py::arg("key"), py::arg("value"),
        py::arg("strategy"), py::arg("options"), py::arg("num_threads"),
        py::call_guard<py::gil_scoped_release>());
  m.def("device_count", &hkv::DeviceCount);
}
