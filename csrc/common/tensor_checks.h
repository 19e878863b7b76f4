// File: tensor_checks.h
//
// What the op layers check of tensors before a kernel reads them, and how a launch's failure is
// told. Errors name the argument.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <ostream>
#include <tuple>

#include "csrc/common/errors.h"
#include "csrc/common/stable_torch.h"

namespace accel {

// Written to a stream: "(2, 3, 4)".
struct Shape {
  const Tensor& of;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << "(";
  for (int64_t d = 0; d < shape.of.dim(); ++d) out << (d > 0 ? ", " : "") << shape.of.size(d);
  return out << ")";
}

// Written to a stream: "cudaErrorInvalidValue: invalid argument".
struct CudaError {
  int code;
};

inline std::ostream& operator<<(std::ostream& out, const CudaError& error) {
  const auto code = static_cast<cudaError_t>(error.code);
  return out << cudaGetErrorName(code) << ": " << cudaGetErrorString(code);
}

inline int32_t ToInt32(int64_t value, const char* name) {
  using Limits = std::numeric_limits<int32_t>;
  Check(value >= Limits::min() && value <= Limits::max(), name, "=", value,
        " does not fit into 32 bits");
  return static_cast<int32_t>(value);
}

inline bool OnDeviceOf(const Tensor& t, const Tensor& other) {
  return t.is_cuda() && t.get_device_index() == other.get_device_index();
}

// What a tensor holds, for structs of pointers that say elsewhere what is only read.
template <class T>
T* DataOf(const Tensor& t) {
  return static_cast<T*>(const_cast<void*>(t.const_data_ptr()));
}

// On one GPU, or on the CPU both.
inline bool SameDevice(const Tensor& t, const Tensor& other) {
  return t.is_cuda() == other.is_cuda() && t.get_device_index() == other.get_device_index();
}

// A contiguous tensor of so many dimensions, on the device of `beside`; `dtype_name` is for the
// error.
inline void CheckTensor(const Tensor& t, const char* name, ScalarType dtype, const char* dtype_name,
                        int64_t dim, const Tensor& beside) {
  Check(t.scalar_type() == dtype && t.dim() == dim && t.is_contiguous() && SameDevice(t, beside),
        name, " must be a contiguous ", dtype_name, " tensor of ", dim,
        " dimensions beside the other tensors, got ", Shape{t});
}

// A contiguous int32 tensor of shape (size,) on q's device.
inline void CheckInt32(const Tensor& t, const char* name, int64_t size, const Tensor& q) {
  Check(t.scalar_type() == ScalarType::Int && t.is_contiguous() && t.dim() == 1 &&
            t.size(0) == size && OnDeviceOf(t, q),
        name, " must be a contiguous int32 tensor of shape (", size, ") on the device of q, got ",
        Shape{t});
}

// The dtype and device of q, so many dimensions.
inline void CheckLike(const Tensor& t, const char* name, int64_t dim, const Tensor& q) {
  Check(t.scalar_type() == q.scalar_type() && t.dim() == dim && OnDeviceOf(t, q), name,
        " must have ", dim, " dimensions and the dtype and device of q");
}

// The pointer of an optional int32 tensor, or null.
inline const int32_t* Int32OrNull(const MaybeTensor& t) {
  return t ? static_cast<const int32_t*>(t->const_data_ptr()) : nullptr;
}

// `t` (rows, heads, head_dim) itself when a kernel can read it 16 bytes at a time (last stride 1,
// rows on 16-byte boundaries), else a contiguous copy.
inline Tensor Readable(const Tensor& t) {
  const auto bytes = static_cast<int64_t>(t.element_size());
  const bool aligned = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 &&
                       (t.size(0) <= 1 || t.stride(0) * bytes % 16 == 0) &&
                       (t.size(1) <= 1 || t.stride(1) * bytes % 16 == 0);
  if (aligned && t.stride(2) == 1) return t;
  Tensor copy = EmptyLike(t);
  torch::stable::copy_(copy, t);
  return copy;
}

// The three tensors inside a packed one, (total, 3, heads, D).
inline std::tuple<Tensor, Tensor, Tensor> Unpacked(const Tensor& packed, const char* name) {
  Check(packed.dim() == 4 && packed.size(1) == 3, name,
        " must be (total, 3, heads, head dim), got ", Shape{packed});
  return {torch::stable::select(packed, 1, 0), torch::stable::select(packed, 1, 1),
          torch::stable::select(packed, 1, 2)};
}

// What a launch returned. `archs`: the machine code in this build; `what`: "the forward".
inline void CheckLaunch(int code, const char* what, const char* archs) {
  if (code == cudaSuccess) return;
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction ||
      code == cudaErrorUnsupportedPtxVersion) {
    Fail("no machine code in this build (", archs, ") serves this GPU (", CudaError{code},
         "); see `python -m ", kPackage, "`");
  }
  Fail(what, " failed with ", CudaError{code});
}

}  // namespace accel
