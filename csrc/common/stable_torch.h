// File: stable_torch.h
//
// What the op layers (csrc/*/ops.cc) share on top of the LibTorch stable ABI: errors that reach
// Python as they are written, the current CUDA stream, device scratch, CUDA error names. Only
// stable and header-only parts of LibTorch are included, so that one shared object serves every
// PyTorch from 2.10 on, with or without CUDA.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

// Lives in libtorch_cuda, which a CPU-only PyTorch lacks: weak, so that the library loads there.
// It is found only when this library's DT_NEEDED names libtorch.so.
extern "C" __attribute__((weak, visibility("default"))) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace stable_torch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Raises RuntimeError(message) in Python; nothing is added to the message.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// fail(parts...) unless `condition` holds.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

// "(2, 3, 4)"
inline std::string shape_text(const Tensor& t) {
  std::ostringstream text;
  text << "(";
  for (int64_t d = 0; d < t.dim(); ++d) text << (d > 0 ? ", " : "") << t.size(d);
  text << ")";
  return text.str();
}

// PyTorch's current stream on `device`.
inline cudaStream_t current_stream(int32_t device) {
  check(&aoti_torch_get_current_cuda_stream != nullptr,
        "this PyTorch has no CUDA support: install a CUDA build of PyTorch");
  void* stream = nullptr;
  check(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
        "PyTorch did not give the current CUDA stream of device ", device);
  return static_cast<cudaStream_t>(stream);
}

// `bytes` of scratch beside `like`, from PyTorch's caching allocator: ordered on the current
// stream, legal under CUDA-graph capture. No bytes: an empty tensor, whose pointer is null.
inline Tensor scratch(const Tensor& like, size_t bytes) {
  return torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
}

// "cudaErrorInvalidValue: invalid argument"
inline std::string cuda_error_text(int code) {
  const auto error = static_cast<cudaError_t>(code);
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// The pointer of an optional int32 tensor, or null.
inline const int32_t* int32_or_null(const std::optional<Tensor>& t) {
  return t ? static_cast<const int32_t*>(t->const_data_ptr()) : nullptr;
}

}  // namespace stable_torch
