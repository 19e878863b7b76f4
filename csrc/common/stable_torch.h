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

// `bytes` of scratch beside `like`, from PyTorch's caching allocator: ordered on the current
// stream, legal under CUDA-graph capture. No bytes: an empty tensor, whose pointer is null.
inline Tensor Scratch(const Tensor& like, size_t bytes) {
  return torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
}

}  // namespace accel
