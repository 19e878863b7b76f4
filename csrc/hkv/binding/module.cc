// File: module.cc
//
// The Python extension hkv._by_pybind11: the tables of libhkv.so with arrays as addresses, device
// memory for results, and DLPack in and out, for the CPython that the wheel is built with. It links
// nothing of the tables: they come from that library, one by one. Everything that has to do with
// dtypes and shapes is in the Python front (python/hkv).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <type_traits>

#include "csrc/common/errors.h"
#include "csrc/hkv/binding/capsules.h"
#include "csrc/hkv/binding/device_memory.h"
#include "csrc/hkv/binding/methods.h"
#include "csrc/hkv/table.h"

namespace py = pybind11;

ACCEL_PACKAGE("hkv");

namespace hkv {
namespace {

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

// What Python gets: the name of an enumerator.
template <class T>
auto Returned(T value) {
  if constexpr (std::is_enum<T>::value) {
    return Name(value);
  } else {
    return value;
  }
}

// A method of Table, or of const Table, as Python calls it.
template <class T, class Result, class... Parameters, class Method>
auto BoundAs(Method method) {
  return [method](T& table, Given<Parameters>... given) {
    if constexpr (std::is_void<Result>::value) {
      (table.*method)(Taken<Parameters>(given)...);
    } else {
      return Returned((table.*method)(Taken<Parameters>(given)...));
    }
  };
}
template <class Result, class... Parameters>
auto Bound(Result (Table::*method)(Parameters...)) {
  return BoundAs<Table, Result, Parameters...>(method);
}
template <class Result, class... Parameters>
auto Bound(Result (Table::*method)(Parameters...) const) {
  return BoundAs<const Table, Result, Parameters...>(method);
}

void BindTable(py::module_& m) {
  py::class_<Predicate>(m, "Predicate")
      .def(py::init([](uint64_t mask, uint64_t pattern, uint64_t low, uint64_t high) {
             return Predicate{mask, pattern, low, high};
           }),
           py::arg("key_mask"), py::arg("key_pattern"), py::arg("score_min"), py::arg("score_max"));

  py::class_<Table> table(m, "Table");
#define HKV_BIND(name) \
  table.def(#name, Bound(&Table::name), py::call_guard<py::gil_scoped_release>());
  HKV_METHODS(HKV_BIND)
#undef HKV_BIND
  // A table that libhkv.so made; its code is there.
  m.def("adopt", [](Address made) { return std::unique_ptr<Table>(At<Table>(made)); });
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
  m.def("device_count", &DeviceCount);
}

}  // namespace
}  // namespace hkv

PYBIND11_MODULE(_by_pybind11, m) {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    throw py::import_error(
        accel::ErrorText("only the main interpreter can import it, a sub-interpreter cannot"));
  }
  m.doc() = "Hash tables with arrays as addresses; use the classes of the package hkv.";
  hkv::BindTable(m);
  hkv::BindMemory(m);
}
