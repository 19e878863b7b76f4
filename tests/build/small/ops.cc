// Registers torch.ops.accel_small.scale and .shift for CPU and CUDA tensors.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "tests/build/small/scale.h"
#include "tests/build/small/shift.h"

extern "C" __attribute__((weak, visibility("default"))) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace {
using torch::stable::Tensor;

using Kernel = int(const float*, float*, int64_t, float, void*);

Tensor on_gpu(Kernel* kernel, const Tensor& x, double number) {
  STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  Tensor out = torch::stable::empty_like(x);
  const int rc = kernel(x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), x.numel(),
                        static_cast<float>(number), stream);
  STD_TORCH_CHECK(rc == 0, "CUDA error ", rc);
  return out;
}

template <typename F>
Tensor on_cpu(const Tensor& x, F&& f) {
  STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  Tensor out = torch::stable::empty_like(x);
  for (int64_t i = 0; i < x.numel(); ++i)
    out.mutable_data_ptr<float>()[i] = f(x.const_data_ptr<float>()[i]);
  return out;
}

Tensor scale_cuda(const Tensor& x, double alpha) { return on_gpu(small::scale, x, alpha); }
Tensor shift_cuda(const Tensor& x, double beta) { return on_gpu(small::shift, x, beta); }

Tensor scale_cpu(const Tensor& x, double alpha) {
  return on_cpu(x, [=](float v) { return static_cast<float>(alpha) * v; });
}
Tensor shift_cpu(const Tensor& x, double beta) {
  return on_cpu(x, [=](float v) { return v + static_cast<float>(beta); });
}
}  // namespace

STABLE_TORCH_LIBRARY(accel_small, m) {
  m.def("scale(Tensor x, float alpha) -> Tensor");
  m.def("shift(Tensor x, float beta) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(accel_small, CPU, m) {
  m.impl("scale", TORCH_BOX(&scale_cpu));
  m.impl("shift", TORCH_BOX(&shift_cpu));
}
STABLE_TORCH_LIBRARY_IMPL(accel_small, CUDA, m) {
  m.impl("scale", TORCH_BOX(&scale_cuda));
  m.impl("shift", TORCH_BOX(&shift_cuda));
}
