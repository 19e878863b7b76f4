// File: norm_ops.cc
//
// Norms of rows, and norm, product with u and dropout in one, by the compiled kernels. What the
// arguments mean is said in python/generative_recommenders/ops/triton/_{norm,linear}_kernels.py.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>

#include "csrc/common/device_ops.h"
#include "csrc/common/op_arguments.h"
#include "csrc/hstu_triton/launch_ops.h"

namespace accel::triton {
namespace {

constexpr int64_t kPrograms = 2112;  // of a backward, each with its own sums

struct NormForward {
  OpArguments& in;
  Tensor x = in.GetTensor("x");  // (rows, dim)
  MaybeTensor weight = in.GetMaybeTensor("weight");
  MaybeTensor bias = in.GetMaybeTensor("bias");
  double eps = in.GetFloat("eps");
  int64_t gate = in.GetInt("gate");
  bool is_rms = in.GetBool("is_rms");

  int64_t parts() const { return (weight ? 1 : 0) | (bias ? 2 : 0) | (is_rms ? 4 : 0); }
};

struct NormBackward {
  OpArguments& in;
  Tensor dy = in.GetTensor("dy");
  Tensor mean = in.GetTensor("mean");
  Tensor rstd = in.GetTensor("rstd");
  NormForward forward{in};
};

struct LinearForward {
  OpArguments& in;
  Tensor x = in.GetTensor("x");  // (rows, heads * dim)
  Tensor u = in.GetTensor("u");
  Tensor weight = in.GetTensor("weight");
  Tensor bias = in.GetTensor("bias");
  Tensor seed = in.GetTensor("seed");  // (2) int64: seed, offset
  double eps = in.GetFloat("eps");
  double ratio = in.GetFloat("ratio");
  bool silu_u = in.GetBool("silu_u");
  bool concat_u = in.GetBool("concat_u");
  bool concat_x = in.GetBool("concat_x");
  int64_t act = in.GetInt("act");
  bool group_norm = in.GetBool("group_norm");
  int64_t heads = in.GetInt("heads");

  int64_t groups() const { return group_norm ? heads : 1; }
  int64_t parts() const { return 1 + (concat_u ? 1 : 0) + (concat_x ? 1 : 0); }
  int64_t flags() const {
    return (silu_u ? 1 : 0) | (concat_u ? 2 : 0) | (concat_x ? 4 : 0) | (group_norm ? 8 : 0);
  }
  void PassKind(Launch& launch) const {
    launch.Float("ratio", ratio).Int("flags", flags()).Int("act", group_norm ? 0 : act);
  }
};

struct LinearBackward {
  OpArguments& in;
  Tensor dy = in.GetTensor("dy");
  Tensor mean = in.GetTensor("mean");
  Tensor rstd = in.GetTensor("rstd");
  LinearForward forward{in};
};

// Rows that the kernels can read: their strides are multiples of 16 where the width is one.
Tensor ReadableRows(const Tensor& t, const char* name, const Tensor& x) {
  Check(t.dim() == 2 && t.scalar_type() == x.scalar_type() && SameDevice(t, x) &&
            t.size(0) == x.size(0),
        name, " must have the rows, the dtype and the device of x, got ", Shape{t});
  const bool aligned = t.stride(1) == 1 &&
                       reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 &&
                       (t.size(0) <= 1 || t.size(1) % 16 != 0 || t.stride(0) % 16 == 0);
  if (aligned) return t;
  Tensor copy = Empty(t, t.sizes(), DtypeOf(t));
  torch::stable::copy_(copy, t);
  return copy;
}

void CheckWeight(const MaybeTensor& t, const char* name, int64_t size, const Tensor& x) {
  if (t) CheckVector(*t, name, x.scalar_type(), size, x);
}

std::string NameOf(const char* kernel, const Tensor& x, int64_t width) {
  return std::string(kernel) + "." + DtypeName(x, "x") + "." + std::to_string(width);
}

// How many programs share the rows of a backward, and how many rows each has.
std::pair<int64_t, int64_t> Share(int64_t rows, int64_t block, int64_t most) {
  const int64_t blocks = (rows + block - 1) / block;
  const int64_t wanted = std::max<int64_t>(1, std::min(most, blocks));
  const int64_t each = (blocks + wanted - 1) / wanted * block;
  return {(rows + each - 1) / each, each};
}

std::string SumsName(const Tensor& x, int64_t heads) {
  return std::string("add_up.") + DtypeName(x, "x") + (heads > 0 ? ".heads" : "");
}

// The second launch of a backward: SUMS (2, programs, columns) to the gradients of weight and bias;
// with heads one number for each.
struct AddUp {
  AddUp(const Tensor& sums, const Tensor& x, int64_t heads)
      : heads(heads),
        columns(sums.size(2)),
        dw(Empty(x, {heads > 0 ? heads : columns}, DtypeOf(x))),
        db(Empty(x, {heads > 0 ? heads : columns}, DtypeOf(x))),
        launch(SumsName(x, heads), x) {
    Check(heads == 0 || columns / heads <= launch.Constant("BLOCK_D"),
          "group_norm with TRITON_CC has heads of at most ", launch.Constant("BLOCK_D"), ", got ",
          heads > 0 ? columns / heads : 0);
    launch.Pointer("SUMS", sums).Pointer("DW", dw).Pointer("DB", db);
    launch.Int("programs", sums.size(1)).Int("columns", columns).Int("heads", heads);
    launch.Ready();
  }

  void Run() { launch.Run(heads > 0 ? heads : launch.Blocks(columns, "BLOCK_D"), 2); }

  int64_t heads, columns;
  Tensor dw, db;
  Launch launch;
};

std::tuple<Tensor, Tensor, Tensor> NormFwd(const NormForward& a) {
  const Tensor x = ReadableRows(a.x, "x", a.x);
  const int64_t rows = x.size(0), dim = x.size(1);
  CheckWeight(a.weight, "weight", dim, x);
  CheckWeight(a.bias, "bias", dim, x);
  const int32_t fp32 = aoti_torch_dtype_float32();
  const Tensor y = Empty(x, {rows, dim}, DtypeOf(x));
  const Tensor mean = Empty(x, {a.is_rms ? 0 : rows}, fp32), rstd = Empty(x, {rows}, fp32);
  if (rows == 0) return {y, mean, rstd};
  Launch launch(NameOf("norm_fwd", x, dim), x);
  launch.Pointer("X", x).Pointer("W", a.weight, x).Pointer("B", a.bias, x).Pointer("Y", y);
  launch.Pointer("MEAN", a.is_rms ? rstd : mean).Pointer("RSTD", rstd);
  launch.Stride("stride_x", x).Stride("stride_y", y).Int("rows", rows);
  launch.Float("eps", a.eps).Int("parts", a.parts()).Int("gate", a.gate);
  launch.Run(launch.Blocks(rows, "BLOCK_N"));
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> NormBwd(const NormBackward& a) {
  const NormForward& f = a.forward;
  const Tensor x = ReadableRows(f.x, "x", f.x), dy = ReadableRows(a.dy, "dy", f.x);
  const int64_t rows = x.size(0), dim = x.size(1);
  const Tensor dx = Empty(x, {rows, dim}, DtypeOf(x));
  if (rows == 0) {
    const Tensor dw = Empty(x, {dim}, DtypeOf(x)), db = Empty(x, {dim}, DtypeOf(x));
    torch::stable::fill_(dw, 0.0);
    torch::stable::fill_(db, 0.0);
    return {dx, dw, db};
  }
  Launch launch(NameOf(f.gate == 0 ? "norm_bwd" : "norm_bwd_gated", x, dim), x);
  const auto [programs, each] = Share(rows, launch.Constant("BLOCK_N"), kPrograms);
  const Tensor sums = Empty(x, {2, programs, dim}, aoti_torch_dtype_float32());
  launch.Pointer("DY", dy).Pointer("X", x).Pointer("W", f.weight, x).Pointer("B", f.bias, x);
  launch.Pointer("MEAN", f.is_rms ? a.rstd : a.mean).Pointer("RSTD", a.rstd).Pointer("DX", dx);
  launch.Pointer("SUMS", sums).Stride("stride_dy", dy).Stride("stride_x", x);
  launch.Stride("stride_dx", dx).Int("rows", rows).Int("per_program", each);
  launch.Int("parts", f.parts()).Int("gate", f.gate);
  if (!f.weight && !f.bias) {
    launch.Run(programs);
    return {dx, Empty(x, {0}, DtypeOf(x)), Empty(x, {0}, DtypeOf(x))};
  }
  AddUp total(sums, x, 0);
  launch.Run(programs);
  total.Run();
  return {dx, total.dw, total.db};
}

int64_t CheckLinear(const LinearForward& f) {
  const int64_t columns = f.x.size(1), groups = f.groups();
  Check(f.x.dim() == 2 && groups >= 1 && columns % groups == 0,
        "x must have shape (rows, heads * dim), got ", Shape{f.x});
  Check(f.u.dim() == 2 && f.u.size(1) == columns, "u must have the shape of x, got ", Shape{f.u});
  const int64_t size = f.group_norm ? f.heads : columns;
  CheckWeight(f.weight, "weight", size, f.x);
  CheckWeight(f.bias, "bias", size, f.x);
  CheckVector(f.seed, "seed", ScalarType::Long, 2, f.x);
  Check(f.ratio >= 0.0 && f.ratio < 1.0, "ratio must lie in [0, 1), got ", f.ratio);
  return columns / groups;
}

std::tuple<Tensor, Tensor, Tensor> LinearFwd(const LinearForward& f) {
  const int64_t width = CheckLinear(f), rows = f.x.size(0), groups = f.groups();
  const Tensor x = ReadableRows(f.x, "x", f.x), u = ReadableRows(f.u, "u", f.x);
  const int32_t fp32 = aoti_torch_dtype_float32();
  const Tensor y = Empty(x, {rows, x.size(1) * f.parts()}, DtypeOf(x));
  const Tensor mean = Empty(x, {rows, groups}, fp32), rstd = Empty(x, {rows, groups}, fp32);
  if (rows == 0) return {y, mean, rstd};
  Launch launch(NameOf("norm_mul_dropout_fwd", x, width), x);
  launch.Pointer("X", x).Pointer("U", u).Pointer("W", f.weight).Pointer("B", f.bias);
  launch.Pointer("Y", y).Pointer("MEAN", mean).Pointer("RSTD", rstd).Pointer("SEED", f.seed);
  launch.Stride("stride_x", x).Stride("stride_u", u).Stride("stride_y", y);
  launch.Int("rows", rows).Int("heads", groups).Float("eps", f.eps);
  f.PassKind(launch);
  launch.Run(launch.Blocks(rows, "BLOCK_N"), groups);
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> LinearBwd(const LinearBackward& a) {
  const LinearForward& f = a.forward;
  const int64_t width = CheckLinear(f), rows = f.x.size(0), groups = f.groups();
  const Tensor x = ReadableRows(f.x, "x", f.x), u = ReadableRows(f.u, "u", f.x);
  const Tensor dy = ReadableRows(a.dy, "dy", f.x);
  const Tensor dx = Empty(x, x.sizes(), DtypeOf(x)), du = Empty(x, u.sizes(), DtypeOf(x));
  if (rows == 0) {
    const Tensor dw = Empty(x, f.weight.sizes(), DtypeOf(x));
    const Tensor db = Empty(x, f.bias.sizes(), DtypeOf(x));
    torch::stable::fill_(dw, 0.0);
    torch::stable::fill_(db, 0.0);
    return {dx, du, dw, db};
  }
  Launch launch(NameOf("norm_mul_dropout_bwd", x, width), x);
  const int64_t most = std::max<int64_t>(1, kPrograms / groups);
  const auto [programs, each] = Share(rows, launch.Constant("BLOCK_N"), most);
  const Tensor sums = Empty(x, {2, programs, x.size(1)}, aoti_torch_dtype_float32());
  launch.Pointer("DY", dy).Pointer("X", x).Pointer("U", u).Pointer("W", f.weight);
  launch.Pointer("B", f.bias).Pointer("MEAN", a.mean).Pointer("RSTD", a.rstd);
  launch.Pointer("SEED", f.seed).Pointer("DX", dx).Pointer("DU", du).Pointer("SUMS", sums);
  launch.Stride("stride_dy", dy).Stride("stride_x", x);
  launch.Stride("stride_u", u).Stride("stride_dx", dx);
  launch.Stride("stride_du", du).Int("rows", rows).Int("heads", groups);
  launch.Int("per_program", each);
  f.PassKind(launch);
  AddUp total(sums, x, f.group_norm ? groups : 0);
  launch.Run(programs, groups);
  total.Run();
  return {dx, du, total.dw, total.db};
}

}  // namespace
}  // namespace accel::triton

STABLE_TORCH_LIBRARY_FRAGMENT(hstu_triton, m) {
  using namespace accel::triton;
  using accel::Schema;
  m.def(Schema<NormForward>("norm_fwd", "(Tensor y, Tensor mean, Tensor rstd)").c_str());
  m.def(Schema<NormBackward>("norm_bwd", "(Tensor dx, Tensor dw, Tensor db)").c_str());
  m.def(Schema<LinearForward>("norm_mul_dropout_fwd", "(Tensor y, Tensor mean, Tensor rstd)")
            .c_str());
  m.def(
      Schema<LinearBackward>("norm_mul_dropout_bwd", "(Tensor dx, Tensor du, Tensor dw, Tensor db)")
          .c_str());
}

#define HSTU_TRITON_IMPL(key)                                           \
  STABLE_TORCH_LIBRARY_IMPL(hstu_triton, key, m) {                      \
    using namespace accel::triton;                                      \
    using accel::Boxed;                                                 \
    m.impl("norm_fwd", &Boxed<NormForward, &NormFwd>);                  \
    m.impl("norm_bwd", &Boxed<NormBackward, &NormBwd>);                 \
    m.impl("norm_mul_dropout_fwd", &Boxed<LinearForward, &LinearFwd>);  \
    m.impl("norm_mul_dropout_bwd", &Boxed<LinearBackward, &LinearBwd>); \
  }

HSTU_TRITON_IMPL(CUDA)
HSTU_TRITON_IMPL(CPU)
