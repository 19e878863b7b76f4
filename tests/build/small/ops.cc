// Registers torch.ops.accel_small.scale for CPU and CUDA tensors.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "tests/build/small/scale.h"

extern "C" __attribute__((weak, visibility("default"))) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace {
using torch::stable::Tensor;

Tensor scale_cpu(const Tensor& x, double alpha) {
  STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  Tensor out = torch::stable::empty_like(x);
  for (int64_t i = 0; i < x.numel(); ++i)
    out.mutable_data_ptr<float>()[i] = static_cast<float>(alpha) * x.const_data_ptr<float>()[i];
  return out;
}

Tensor scale_cuda(const Tensor& x, double alpha) {
  STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  Tensor out = torch::stable::empty_like(x);
  const int rc = small::scale(x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), x.numel(),
                              static_cast<float>(alpha), stream);
  STD_TORCH_CHECK(rc == 0, "scale: CUDA error ", rc);
  return out;
}
}  // namespace

STABLE_TORCH_LIBRARY(accel_small, m) { m.def("scale(Tensor x, float alpha) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(accel_small, CPU, m) { m.impl("scale", TORCH_BOX(&scale_cpu)); }
STABLE_TORCH_LIBRARY_IMPL(accel_small, CUDA, m) { m.impl("scale", TORCH_BOX(&scale_cuda)); }
