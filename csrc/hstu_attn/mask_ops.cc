// File: mask_ops.cc
//
// The mask of mask.h as an op, so that tests hold it against the reference in Python.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <limits>

#include "csrc/common/errors.h"
#include "csrc/common/op_arguments.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"
#include "csrc/hstu_attn/mask.h"
#include "csrc/hstu_attn/window.h"

namespace accel::hstu {
namespace {

struct MaskArguments {
  OpArguments& in;
  int64_t k_len = in.GetInt("k_len");
  int64_t window_left = in.GetInt("window_left");
  int64_t window_right = in.GetInt("window_right");
  int64_t contexts = in.GetInt("contexts");
  int64_t targets = in.GetInt("targets");
  int64_t target_group_size = in.GetInt("target_group_size");
};

// (k_len, 4) int32 on the CPU: begin, hist, group, end of every absolute row.
Tensor MaskRows(const MaskArguments& a) {
  Check(a.k_len >= 0 && a.targets >= 0 && a.targets <= a.k_len && a.contexts >= 0 &&
            a.target_group_size >= 1,
        "mask_rows needs k_len >= targets >= 0, contexts >= 0, target_group_size >= 1");
  constexpr int32_t kUnbounded = std::numeric_limits<int32_t>::max();
  const int32_t left = WindowSide(a.window_left), right = WindowSide(a.window_right);
  const SeqMask mask{ToInt32(a.k_len, "k_len"),
                     left < 0 ? kUnbounded : left,
                     right < 0 ? kUnbounded : right,
                     ToInt32(a.contexts, "contexts"),
                     ToInt32(a.k_len - a.targets, "history"),
                     ToInt32(a.target_group_size, "target_group_size")};
  Tensor spans = torch::stable::empty({a.k_len, 4}, ScalarType::Int);
  auto* out = static_cast<int32_t*>(spans.mutable_data_ptr());
  for (int32_t i = 0; i < mask.k_len; ++i, out += 4) {
    const RowSpan span = mask.row(i);
    out[0] = span.begin, out[1] = span.hist, out[2] = span.group, out[3] = span.end;
  }
  return spans;
}

}  // namespace
}  // namespace accel::hstu

STABLE_TORCH_LIBRARY_FRAGMENT(hstu_attn, m) {
  m.def(accel::Schema<accel::hstu::MaskArguments>("mask_rows", "Tensor").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(hstu_attn, CompositeExplicitAutograd, m) {
  m.impl("mask_rows", &accel::Boxed<accel::hstu::MaskArguments, &accel::hstu::MaskRows>);
}
