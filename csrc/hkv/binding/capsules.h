// File: capsules.h
//
// DLPack capsules of Python: out of device memory, and into addresses.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>
#include <vector>

#include "csrc/common/dlpack.h"
#include "csrc/common/errors.h"
#include "csrc/hkv/binding/device_memory.h"

namespace hkv {

namespace py = pybind11;
using accel::DLManagedTensor;
using accel::DLTensor;

inline py::capsule ToDLPack(const std::shared_ptr<DeviceMemory>& memory, std::vector<int64_t> shape,
                            int code, int bits) {
  DLManagedTensor* exported = ExportMemory(memory, std::move(shape), code, bits);
  PyObject* capsule = PyCapsule_New(exported, "dltensor", [](PyObject* object) {
    if (!PyCapsule_IsValid(object, "dltensor")) return;  // taken over by a consumer
    auto* tensor = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(object, "dltensor"));
    tensor->deleter(tensor);
  });
  if (capsule == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::capsule>(capsule);
}

// (address, device type, device id, type code, bits, shape, strides or None, read-only). The
// capsule is not consumed: keep it for as long as the address is used.
inline py::tuple FromDLPack(const py::object& capsule) {
  const DLTensor* tensor = nullptr;
  bool read_only = false;
  if (PyCapsule_IsValid(capsule.ptr(), accel::DLManagedTensorVersioned::kCapsule)) {
    const auto* managed = static_cast<accel::DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), accel::DLManagedTensorVersioned::kCapsule));
    if (managed->version.major != accel::DLManagedTensorVersioned::kMajor) {
      throw py::type_error(accel::ErrorText("DLPack of major version ", managed->version.major,
                                            " is not known; 0 and 1 are"));
    }
    read_only = (managed->flags & accel::DLManagedTensorVersioned::kReadOnly) != 0;
    tensor = &managed->dl_tensor;
  } else if (PyCapsule_IsValid(capsule.ptr(), DLManagedTensor::kCapsule)) {
    tensor = &static_cast<DLManagedTensor*>(
                  PyCapsule_GetPointer(capsule.ptr(), DLManagedTensor::kCapsule))
                  ->dl_tensor;
  } else {
    throw py::type_error(
        accel::ErrorText("__dlpack__ returned something that is no DLPack capsule"));
  }
  const DLTensor& t = *tensor;
  if (t.dtype.lanes != 1) {
    throw py::type_error(accel::ErrorText("DLPack arrays of vector types are not taken"));
  }
  py::object strides = py::none();
  if (t.strides != nullptr) {
    strides = py::cast(std::vector<int64_t>(t.strides, t.strides + t.ndim));
  }
  return py::make_tuple(reinterpret_cast<Address>(t.data) + t.byte_offset, t.device.device_type,
                        t.device.device_id, t.dtype.code, t.dtype.bits,
                        std::vector<int64_t>(t.shape, t.shape + t.ndim), strides, read_only);
}

}  // namespace hkv
