// File: jagged_ops.cc
//
// Jagged rows put together, taken apart, and times one matrix for each sequence, by the compiled
// kernels; python/generative_recommenders/ops/triton/_jagged_kernels.py says what they compute.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "csrc/common/device_ops.h"
#include "csrc/common/op_arguments.h"
#include "csrc/hstu_triton/launch_ops.h"

namespace accel::triton {
namespace {

struct Parts {
  OpArguments& in;
  Tensor offsets_a = in.GetTensor("offsets_a");  // (batch + 1) int64
  Tensor offsets_b = in.GetTensor("offsets_b");
  int64_t longest = in.GetSymInt("longest");  // rows of both parts of a sequence
  int64_t prefix = in.GetInt("prefix");       // rows of b that stand before a
  bool replace = in.GetBool("replace");       // the rows of b stand where the last ones of a do
};

struct Concat {
  OpArguments& in;
  Tensor a = in.GetTensor("a");  // (rows, dim)
  Tensor b = in.GetTensor("b");
  Parts parts{in};
};

struct Split {
  OpArguments& in;
  Tensor both = in.GetTensor("both");  // (rows, dim)
  int64_t rows_a = in.GetSymInt("rows_a");
  int64_t rows_b = in.GetSymInt("rows_b");
  Parts parts{in};
};

struct Product {
  OpArguments& in;
  Tensor offsets = in.GetTensor("offsets");  // (batch + 1) int64
  Tensor jagged = in.GetTensor("jagged");    // (rows, k)
  Tensor dense = in.GetTensor("dense");      // (batch, k, n)
  Tensor bias = in.GetTensor("bias");        // (batch, n)
  int64_t longest = in.GetSymInt("longest");

  int64_t batch() const { return offsets.size(0) - 1; }
};

struct ProductBackward {
  OpArguments& in;
  Tensor dout = in.GetTensor("dout");
  Product forward{in};
};

void CheckRows(const Tensor& t, const char* name, const Tensor& beside) {
  Check(t.dim() == 2 && t.scalar_type() == beside.scalar_type() && SameDevice(t, beside), name,
        " must be a matrix of the dtype and the device of the other tensors, got ", Shape{t});
}

void CheckOffsets(const Tensor& t, const char* name, const Tensor& beside) {
  CheckVector(t, name, ScalarType::Long, -1, beside);
  Check(t.size(0) >= 1, name, " must have shape (batch + 1,)");
}

void Move(const char* kernel, const Tensor& a, const Tensor& b, const Tensor& both,
          const Parts& p) {
  CheckOffsets(p.offsets_a, "offsets_a", both);
  CheckVector(p.offsets_b, "offsets_b", ScalarType::Long, p.offsets_a.size(0), both);
  const int64_t batch = p.offsets_a.size(0) - 1, dim = both.size(1);
  if (batch == 0 || p.longest <= 0 || both.numel() == 0) return;
  Launch launch(SizedName(kernel, "i16", {&a, &b, &both}), both);
  launch.Pointer("A", a).Pointer("B", b).Pointer("BOTH", both);
  launch.Pointer("OFFSETS_A", p.offsets_a).Pointer("OFFSETS_B", p.offsets_b);
  launch.Stride("stride_a", a).Stride("stride_b", b).Stride("stride_both", both);
  launch.Int("prefix", p.prefix).Int("dim", dim).Int("replace", p.replace ? 1 : 0);
  launch.Run(batch, launch.Blocks(p.longest, "BLOCK"), launch.Blocks(dim, "BLOCK_D"));
}

Tensor ConcatRows(const Concat& c) {
  DtypeName(c.a, "a");
  CheckRows(c.a, "a", c.a);
  CheckRows(c.b, "b", c.a);
  Check(c.b.size(1) == c.a.size(1), "b must have the ", c.a.size(1), " columns of a, got ",
        Shape{c.b});
  const int64_t rows = c.a.size(0) + (c.parts.replace ? 0 : c.b.size(0));
  const Tensor both = Empty(c.a, {rows, c.a.size(1)}, DtypeOf(c.a));
  Move("concat", WithoutGaps(c.a), WithoutGaps(c.b), both, c.parts);
  return both;
}

std::tuple<Tensor, Tensor> SplitRows(const Split& s) {
  DtypeName(s.both, "both");
  CheckRows(s.both, "both", s.both);
  Check(s.rows_a >= 0 && s.rows_b >= 0, "rows_a and rows_b must be >= 0, got ", s.rows_a, " and ",
        s.rows_b);
  const int64_t dim = s.both.size(1);
  const Tensor a = Empty(s.both, {s.rows_a, dim}, DtypeOf(s.both));
  const Tensor b = Empty(s.both, {s.rows_b, dim}, DtypeOf(s.both));
  if (s.parts.replace) {  // rows that were replaced have no place in `both`
    torch::stable::fill_(a, 0.0);
    torch::stable::fill_(b, 0.0);
  }
  Move("split", a, b, WithoutGaps(s.both), s.parts);
  return {a, b};
}

void CheckProduct(const Product& p) {
  const Tensor& j = p.jagged;
  CheckOffsets(p.offsets, "offsets", j);
  CheckRows(j, "jagged", j);
  CheckRows(p.bias, "bias", j);
  Check(p.dense.dim() == 3 && p.dense.scalar_type() == j.scalar_type() && SameDevice(p.dense, j) &&
            p.dense.size(0) == p.batch() && p.dense.size(1) == j.size(1),
        "dense must have shape (", p.batch(), ", ", j.size(1), ", n), got ", Shape{p.dense});
  Check(p.bias.size(0) == p.batch() && p.bias.size(1) == p.dense.size(2),
        "bias must have shape (batch, n), got ", Shape{p.bias});
}

// Each sequence's rows of `j` times its matrix; `stride` is the argument that `dim` of the matrices
// has the stride of.
void Pack(Launch& launch, const Tensor& j, const Tensor& dense, int dim, const char* stride,
          const Tensor& bias, const Tensor& out, const Product& p) {
  launch.Pointer("J", j).Pointer("W", dense).Pointer("BIAS", bias).Pointer("Out", out);
  launch.Pointer("OFFSETS", p.offsets).Stride("stride_j", j).Stride("stride_wb", dense);
  launch.Stride(stride, dense, dim).Stride("stride_b", bias).Stride("stride_o", out);
  launch.Int("longest", p.longest).Int("batch", p.batch()).Int("total", out.size(0));
  launch.Int("K", j.size(1)).Int("N", out.size(1));
  launch.Ready();
}

void RunProduct(Launch& launch, const Tensor& out, const Product& p) {
  launch.Run(p.batch(), launch.Blocks(p.longest, "BLOCK_M"), launch.Blocks(out.size(1), "BLOCK_N"));
}

Tensor JaggedProduct(const Product& p) {
  CheckProduct(p);
  const Tensor out = Empty(p.jagged, {p.jagged.size(0), p.dense.size(2)}, DtypeOf(p.jagged));
  if (p.batch() == 0 || out.numel() == 0) return torch::stable::fill_(out, 0.0);
  const Tensor j = WithoutGaps(p.jagged), w = WithoutGaps(p.dense), bias = WithoutGaps(p.bias);
  Launch launch(SizedName("bmm", DtypeName(j, "jagged"), {&j, &w, &bias}), j);
  Pack(launch, j, w, 1, "stride_wk", bias, out, p);
  RunProduct(launch, out, p);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> JaggedProductBwd(const ProductBackward& a) {
  const Product& p = a.forward;
  CheckProduct(p);
  CheckRows(a.dout, "dout", p.jagged);
  Check(a.dout.size(0) == p.jagged.size(0) && a.dout.size(1) == p.dense.size(2),
        "dout must have the shape of the result, got ", Shape{a.dout});
  const int32_t dtype = DtypeOf(p.jagged);
  const Tensor dj = Empty(p.jagged, p.jagged.sizes(), dtype);
  const Tensor dw = Empty(p.jagged, p.dense.sizes(), dtype);
  const Tensor db = Empty(p.jagged, p.bias.sizes(), dtype);
  if (p.batch() == 0 || p.jagged.numel() == 0 || a.dout.numel() == 0) {
    for (const Tensor* t : {&dj, &dw, &db}) torch::stable::fill_(*t, 0.0);
    return {dj, dw, db};
  }
  const Tensor j = WithoutGaps(p.jagged), w = WithoutGaps(p.dense), g = WithoutGaps(a.dout);
  const char* name = DtypeName(j, "jagged");
  Launch outer(SizedName("bmm_outer", name, {&j, &g}), j);
  Launch sum(SizedName("bmm_sum", name, {&g}), j);
  Launch rows(SizedName("bmm_transposed", name, {&g, &w, &dj}), j);
  outer.Pointer("J", j).Pointer("G", g).Pointer("Out", dw).Pointer("OFFSETS", p.offsets);
  outer.Stride("stride_j", j).Stride("stride_g", g).Stride("stride_ob", dw);
  outer.Stride("stride_o", dw, 1).Int("longest", p.longest).Int("K", j.size(1));
  outer.Int("N", g.size(1));
  sum.Pointer("G", g).Pointer("Out", db).Pointer("OFFSETS", p.offsets).Stride("stride_g", g);
  sum.Stride("stride_o", db).Int("longest", p.longest).Int("N", g.size(1));
  // By the matrices transposed: their rows are its columns.
  Pack(rows, g, w, 1, "stride_wn", g, dj, p);
  sum.Ready();
  outer.Run(p.batch(), outer.Blocks(j.size(1), "BLOCK_K"), outer.Blocks(g.size(1), "BLOCK_N"));
  sum.Run(p.batch(), sum.Blocks(g.size(1), "BLOCK_N"));
  RunProduct(rows, dj, p);
  return {dj, dw, db};
}

}  // namespace
}  // namespace accel::triton

STABLE_TORCH_LIBRARY_FRAGMENT(hstu_triton, m) {
  using namespace accel::triton;
  using accel::Schema;
  m.def(Schema<Concat>("concat_rows", "Tensor").c_str());
  m.def(Schema<Split>("split_rows", "(Tensor a, Tensor b)").c_str());
  m.def(Schema<Product>("jagged_bmm", "Tensor").c_str());
  m.def(Schema<ProductBackward>("jagged_bmm_bwd", "(Tensor dj, Tensor dw, Tensor db)").c_str());
}

#define HSTU_TRITON_IMPL(key)                                             \
  STABLE_TORCH_LIBRARY_IMPL(hstu_triton, key, m) {                        \
    using namespace accel::triton;                                        \
    using accel::Boxed;                                                   \
    m.impl("concat_rows", &Boxed<Concat, &ConcatRows>);                   \
    m.impl("split_rows", &Boxed<Split, &SplitRows>);                      \
    m.impl("jagged_bmm", &Boxed<Product, &JaggedProduct>);                \
    m.impl("jagged_bmm_bwd", &Boxed<ProductBackward, &JaggedProductBwd>); \
  }

HSTU_TRITON_IMPL(CUDA)
HSTU_TRITON_IMPL(CPU)
