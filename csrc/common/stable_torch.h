// File: stable_torch.h
//
// What the op layers (csrc/*/ops.cc) share on top of the LibTorch stable ABI: the current CUDA
// stream, device scratch. Only stable and header-only parts of LibTorch are included, so that one
// shared object serves every PyTorch from 2.10 on, with or without CUDA.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "csrc/common/errors.h"

// Lives in libtorch_cuda, which a CPU-only PyTorch lacks: weak, so that the library loads there.
// It is found only when this library's DT_NEEDED names libtorch.so.
extern "C" __attribute__((weak, visibility("default"))) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace accel {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// PyTorch's current stream on `device`.
inline cudaStream_t CurrentStream(int32_t device) {
  Check(&aoti_torch_get_current_cuda_stream != nullptr,
        "this PyTorch has no CUDA support: install a CUDA build of PyTorch");
  void* stream = nullptr;
  Check(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
        "PyTorch did not give the current CUDA stream of device ", device);
  return static_cast<cudaStream_t>(stream);
}

// An uninitialised, contiguous tensor on the device of `beside`. By the C interface: the functions
// of the C++ one look their operator up by name in every call.
inline Tensor EmptyCuda(const Tensor& beside, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                        int32_t dtype) {
  constexpr size_t kMostDims = 8;
  const size_t dims = sizes.size();
  Check(dims <= kMostDims, "a tensor of ", dims, " dimensions is asked for");
  int64_t strides[kMostDims] = {}, values = 1;
  for (size_t d = dims; d-- > 0;) {
    strides[d] = values;
    values *= sizes[d] > 1 ? sizes[d] : 1;
  }
  AtenTensorHandle made = nullptr;
  const AOTITorchError error =
      aoti_torch_empty_strided(static_cast<int64_t>(dims), sizes.data(), strides, dtype,
                               aoti_torch_device_type_cuda(), beside.get_device_index(), &made);
  Check(error == AOTI_TORCH_SUCCESS, "PyTorch did not allocate a tensor of ", values, " values");
  return Tensor(made);
}

// As the C interface says it.
inline int32_t DtypeOf(const Tensor& t) {
  int32_t dtype = 0;
  aoti_torch_get_dtype(t.get(), &dtype);
  return dtype;
}

// The same with the dtype of `like`, and its shape unless another is given.
inline Tensor EmptyLike(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  return EmptyCuda(like, sizes, DtypeOf(like));
}

inline Tensor EmptyLike(const Tensor& like) { return EmptyLike(like, like.sizes()); }

// Device scratch from PyTorch's caching allocator: ordered on the current stream, legal under
// CUDA-graph capture.
class Scratch {
 public:
  Scratch(const Tensor& beside, size_t bytes) {
    if (bytes == 0) return;
    const auto size = static_cast<int64_t>(bytes);
    memory_ = EmptyCuda(beside, size, aoti_torch_dtype_uint8());
  }

  // Null where there are no bytes.
  void* data() const { return memory_ ? memory_->mutable_data_ptr() : nullptr; }

 private:
  MaybeTensor memory_;
};

}  // namespace accel
