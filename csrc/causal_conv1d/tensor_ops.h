// File: tensor_ops.h
//
// From tensors to the arguments of kernels, and what is checked on the way. For ops.cc alone.
#pragma once

#include <cstdint>
#include <string>

#include "csrc/causal_conv1d/conv.h"
#include "csrc/causal_conv1d/plan.h"
#include "csrc/common/errors.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"

namespace accel::conv1d {

inline Type TypeOf(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Type::kFloat32;
    case ScalarType::Half:
      return Type::kFloat16;
    case ScalarType::BFloat16:
      return Type::kBFloat16;
    default:
      Fail(name, " must be float32, float16 or bfloat16 on a GPU");
  }
}

// (sequences, channels, tokens), or what the function is told to check for.
inline void CheckSizes(const Tensor& t, const char* name, int64_t a, int64_t b, int64_t c,
                       const Tensor& x) {
  Check(t.dim() == 3 && t.size(0) == a && t.size(1) == b && t.size(2) == c, name,
        " must have shape (", a, ", ", b, ", ", c, "), got ", accel::Shape{t});
  Check(t.scalar_type() == x.scalar_type() && OnDeviceOf(t, x), name,
        " must have the dtype and device of x");
}

// Strides of (sequence, channel, token). `at_once` channels: rows of so many are loaded whole.
inline Values ValuesOf(const Tensor& t, int at_once) {
  Values v{const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1), t.stride(2), 0, 0};
  const auto bytes = static_cast<uintptr_t>(at_once) * t.element_size();
  const auto fits = [&](int d) { return t.size(d) <= 1 || t.stride(d) % at_once == 0; };
  v.whole = reinterpret_cast<uintptr_t>(v.data) % bytes == 0 &&
            (t.size(1) <= 1 || t.stride(1) == 1) && fits(0) && fits(2);
  return v;
}

// The most values of a row that lie before its first 16-byte boundary.
inline int LeadOf(const Tensor& t) {
  const int vector = 16 / static_cast<int>(t.element_size());
  const bool whole = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 &&
                     (t.size(0) <= 1 || t.stride(0) % vector == 0) &&
                     (t.size(1) <= 1 || t.stride(1) % vector == 0);
  return whole ? 0 : vector - 1;
}

inline Values ValuesOf(const MaybeTensor& t, int at_once) {
  return t ? ValuesOf(*t, at_once) : Values{};
}

// (channels, width), and (channels) or nothing.
inline Weights WeightsOf(const Tensor& weight, const MaybeTensor& bias, bool silu, const Tensor& x,
                         int64_t channels) {
  Check(weight.dim() == 2 && weight.size(0) == channels && weight.size(1) >= 2 &&
            weight.size(1) <= kMaxWidth && OnDeviceOf(weight, x),
        "weight must be (", channels, ", 2 to ", kMaxWidth, ") on the device of x, got ",
        accel::Shape{weight});
  Weights w{};
  w.data = weight.const_data_ptr();
  w.channel = weight.stride(0);
  w.tap = weight.stride(1);
  w.type = TypeOf(weight, "weight");
  w.width = static_cast<int32_t>(weight.size(1));
  w.silu = silu;
  const int taps = TapsFor(w.width);
  const auto bytes = static_cast<uintptr_t>(taps) * weight.element_size();
  w.whole = w.width == taps && w.tap == 1 && w.channel % taps == 0 &&
            reinterpret_cast<uintptr_t>(w.data) % Min<uintptr_t>(bytes, 16) == 0;
  if (!bias) return w;
  Check(bias->dim() == 1 && bias->size(0) == channels &&
            bias->scalar_type() == weight.scalar_type() && OnDeviceOf(*bias, x),
        "bias must be (", channels, ") with the dtype of weight on the device of x, got ",
        accel::Shape{*bias});
  w.bias = bias->const_data_ptr();
  w.bias_stride = bias->stride(0);
  return w;
}

// Channels side by side, or tokens.
inline bool ChannelLast(const Tensor& x) {
  const bool channels = x.size(1) <= 1 || x.stride(1) == 1;
  const bool tokens = x.size(2) <= 1 || x.stride(2) == 1;
  return channels && (!tokens || x.size(2) <= 1);
}

inline bool ChannelFirst(const Tensor& x) { return x.size(2) <= 1 || x.stride(2) == 1; }

// An uninitialised tensor beside x, dense in one of the two layouts.
inline Tensor EmptyLaidOut(const Tensor& x, int64_t a, int64_t b, int64_t c, bool channel_last) {
  const int64_t sizes[] = {a, b, c};
  const int64_t first[] = {Max<int64_t>(b, 1) * Max<int64_t>(c, 1), Max<int64_t>(c, 1), 1};
  const int64_t last[] = {Max<int64_t>(b, 1) * Max<int64_t>(c, 1), 1, Max<int64_t>(b, 1)};
  int32_t dtype = 0;
  aoti_torch_get_dtype(x.get(), &dtype);
  AtenTensorHandle made = nullptr;
  const AOTITorchError error =
      aoti_torch_empty_strided(3, sizes, channel_last ? last : first, dtype,
                               aoti_torch_device_type_cuda(), x.get_device_index(), &made);
  Check(error == AOTI_TORCH_SUCCESS, "PyTorch did not allocate a tensor of ", a * b * c, " values");
  return Tensor(made);
}

// `t` itself, or a copy whose channels (or tokens) lie side by side.
inline Tensor InLayout(const Tensor& t, bool channel_last) {
  const int side = channel_last ? 1 : 2;
  if (t.size(side) <= 1 || t.stride(side) == 1) return t;
  Tensor copy = EmptyLaidOut(t, t.size(0), t.size(1), t.size(2), channel_last);
  torch::stable::copy_(copy, t);
  return copy;
}

// A contiguous int32 tensor of this shape.
inline const int32_t* Int32Of(const MaybeTensor& t, const char* name, int64_t size,
                              const Tensor& x) {
  if (!t) return nullptr;
  Check(t->scalar_type() == ScalarType::Int && t->dim() == 1 && t->size(0) == size &&
            (size <= 1 || t->stride(0) == 1) && OnDeviceOf(*t, x),
        name, " must be a contiguous int32 tensor of shape (", size, ") on the device of x, got ",
        accel::Shape{*t});
  return static_cast<const int32_t*>(t->const_data_ptr());
}

}  // namespace accel::conv1d
