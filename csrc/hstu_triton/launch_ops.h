// File: launch_ops.h
//
// How a compiled kernel is found, loaded and launched. A Launch takes the arguments of a kernel one
// by one and compares each, by name and kind, with what the kernel was compiled for: a list that
// does not agree fails before anything runs, also where there is no GPU.
//
//   Launch launch("norm_fwd.bf16.256", x);
//   launch.Pointer("X", x).Int("rows", rows).Float("eps", eps);
//   launch.Run(blocks);
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "csrc/common/stable_torch.h"
#include "csrc/hstu_triton/objects.h"

namespace accel::triton {

// The kernel of that name for the GPU of `beside`, or, on the CPU, for one of compute capability
// 9.0. Fails where there is none, and says which are nearest.
const Object& Find(const std::string& name, const Tensor& beside);

bool Has(const std::string& name, const Tensor& beside);

// The number that PyTorch has for the dtype of a tensor.
inline int32_t DtypeOf(const Tensor& t) {
  int32_t dtype = 0;
  aoti_torch_get_dtype(t.get(), &dtype);
  return dtype;
}

// "bf16" or "fp16"; fails for others, naming the argument.
const char* DtypeName(const Tensor& t, const char* argument);

// `t`, or a copy of it: rows of numbers without gaps, the first at a multiple of 16 bytes.
Tensor WithoutGaps(const Tensor& t);

// "KERNEL.DTYPE.whole" where the rows of all tensors begin at multiples of 16 numbers and have a
// multiple of 16, else "KERNEL.DTYPE.any".
std::string SizedName(const std::string& kernel, const char* dtype,
                      std::initializer_list<const Tensor*> tensors);

class Launch {
 public:
  Launch(const std::string& name, const Tensor& beside);

  // A tensor whose memory begins at a multiple of 16 bytes.
  Launch& Pointer(const char* name, const Tensor& t);
  // One that may be absent: `stand_in` is passed for it, and the kernel does not read it.
  Launch& Pointer(const char* name, const MaybeTensor& t, const Tensor& stand_in);
  Launch& Int(const char* name, int64_t value);
  // How far the elements of a dimension lie apart; 0 where there is one at most.
  Launch& Stride(const char* name, const Tensor& t, int64_t dim = 0);
  Launch& Float(const char* name, double value);

  // What the kernel was compiled for, and how many blocks of that size `size` has.
  int64_t Constant(const char* name) const;
  int64_t Blocks(int64_t size, const char* name) const {
    const int64_t block = Constant(name);
    return (size + block - 1) / block;
  }

  // Fails if the kernel takes more than it was given; before the first of several launches.
  void Ready() const;
  // Launches on PyTorch's stream. On the CPU it fails, after all arguments have agreed.
  void Run(int64_t x, int64_t y = 1, int64_t z = 1);

 private:
  static constexpr int kMost = 48;

  void* Slot(const char* name, char kind);

  const Tensor& beside_;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  const Object& object_;
  const char* next_;  // of the parameters
  char kind_ = 0;     // of the last of them
  int count_ = 0;
  uint64_t values_[kMost];
  void* pointers_[kMost];
};

}  // namespace accel::triton
