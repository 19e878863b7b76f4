// File: device_ops.h
//
// What op layers share whose ops serve CPU and CUDA tensors alike: results, checks, and where an op
// runs, which its first tensor says.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>

#include "csrc/common/errors.h"
#include "csrc/common/op_arguments.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"

namespace accel {

inline Tensor Empty(const Tensor& beside, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                    int32_t dtype) {
  if (beside.is_cuda()) return EmptyCuda(beside, sizes, dtype);
  int64_t strides[4] = {}, values = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = values;
    values *= sizes[d] > 1 ? sizes[d] : 1;
  }
  AtenTensorHandle made = nullptr;
  const AOTITorchError error =
      aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides, dtype,
                               aoti_torch_device_type_cpu(), 0, &made);
  Check(error == AOTI_TORCH_SUCCESS, "PyTorch did not allocate a tensor of ", values, " values");
  return Tensor(made);
}

// Scratch on the device of a tensor, at least one byte.
inline Tensor EmptyBytes(const Tensor& beside, size_t bytes) {
  const auto size = static_cast<int64_t>(bytes > 0 ? bytes : 1);
  return Empty(beside, size, aoti_torch_dtype_uint8());
}

// Where an op on this tensor runs, as a struct with `cuda`, `stream` and `threads`; on a GPU its
// device is current meanwhile.
template <class Where>
class At {
 public:
  explicit At(const Tensor& t) {
    if (t.is_cuda()) {
      guard_.emplace(t.get_device_index());
      where.cuda = true;
      where.stream = CurrentStream(t.get_device_index());
    } else {
      where.threads = static_cast<int>(torch::stable::get_num_threads());
    }
  }
  Where where;

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

inline const char* TypeName(ScalarType type) {
  switch (type) {
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    default:
      return "another type";
  }
}

// A contiguous tensor of one dimension on the device of `beside`; size -1: any.
inline void CheckVector(const Tensor& t, const char* name, ScalarType type, int64_t size,
                        const Tensor& beside) {
  const bool there = t.is_cuda() == beside.is_cuda() &&
                     (!t.is_cuda() || t.get_device_index() == beside.get_device_index());
  Check(t.scalar_type() == type && t.dim() == 1 && t.is_contiguous() &&
            (size < 0 || t.size(0) == size) && there,
        name, " must be a contiguous ", TypeName(type), " tensor of shape (",
        size < 0 ? std::string("n") : std::to_string(size),
        ",) on the device of the other tensors, got ", TypeName(t.scalar_type()), " ", Shape{t},
        there ? "" : " on another device");
}

template <class T>
const T* In(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* In(const MaybeTensor& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}
template <class T>
T* Out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// An op that returns nothing.
template <class Arguments, auto kFunction>
void BoxedVoid(StableIValue* stack, uint64_t /*inputs*/, uint64_t /*outputs*/) {
  OpArguments in(stack);
  const Arguments arguments{in};
  kFunction(arguments);
}

// The schema of an op that writes what its argument `state` stands for.
template <class Arguments>
std::string Writing(const char* name, const char* returns) {
  std::string schema = Schema<Arguments>(name, returns);
  const std::string plain = "Tensor state";
  return schema.replace(schema.find(plain), plain.size(), "Tensor(a!) state");
}

}  // namespace accel
