// File: rows_ops.cc
//
// Ops of whole matrices of rows by the compiled kernels: addmm, embeddings of place and time, and
// bias and SiLU of the projection to u, v, q, k. The kernels that say what they compute are
// python/generative_recommenders/ops/triton/_{addmm,position,uvqk}_kernels.py.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "csrc/common/device_ops.h"
#include "csrc/common/op_arguments.h"
#include "csrc/hstu_triton/launch_ops.h"

namespace accel::triton {
namespace {

constexpr int64_t kPrograms = 264;  // of a backward's rows, each with its own sums
constexpr int64_t kBlocks = 4;      // of rows of a sequence, one after the other by one program

struct Addmm {
  OpArguments& in;
  Tensor input = in.GetTensor("input");  // (m, n) or (n)
  Tensor mat1 = in.GetTensor("mat1");    // (m, k)
  Tensor mat2 = in.GetTensor("mat2");    // (k, n)
};

struct Places {
  OpArguments& in;
  Tensor x = in.GetTensor("x");                                // (rows, dim)
  Tensor seq_offsets = in.GetTensor("seq_offsets");            // (batch + 1) int64
  Tensor seq_lengths = in.GetTensor("seq_lengths");            // (batch) int64
  MaybeTensor num_targets = in.GetMaybeTensor("num_targets");  // (batch) int64
  Tensor positions = in.GetTensor("positions");                // (places, dim) float32
  Tensor ages = in.GetTensor("ages");                          // (buckets, dim) float32
  Tensor timestamps = in.GetTensor("timestamps");              // (rows) int64
  int64_t longest = in.GetSymInt("longest");
  int64_t contextual = in.GetInt("contextual");
  int64_t rows_a_target = in.GetInt("rows_a_target");
  bool sqrt = in.GetBool("sqrt");
  double alpha = in.GetFloat("alpha");  // what x is multiplied by
};

struct SumOfRows {
  OpArguments& in;
  Tensor grad = in.GetTensor("grad");      // (rows, dim)
  Tensor order = in.GetTensor("order");    // (rows) int64
  Tensor starts = in.GetTensor("starts");  // (rows of the table + 1) int64
};

struct BiasSilu {
  OpArguments& in;
  Tensor x = in.GetTensor("x");        // (rows, columns)
  Tensor bias = in.GetTensor("bias");  // (columns)
  int64_t silu = in.GetInt("silu");    // SiLU acts on so many columns
};

struct BiasSiluBackward {
  OpArguments& in;
  Tensor du = in.GetTensor("du");  // (rows, values)
  Tensor dv = in.GetTensor("dv");
  Tensor dq = in.GetTensor("dq");  // (rows, keys)
  Tensor dk = in.GetTensor("dk");
  BiasSilu forward{in};
};

void CheckMatrix(const Tensor& t, const char* name, const Tensor& beside, ScalarType type,
                 int64_t rows, int64_t columns) {
  Check(t.dim() == 2 && t.scalar_type() == type && SameDevice(t, beside) &&
            (rows < 0 || t.size(0) == rows) && (columns < 0 || t.size(1) == columns),
        name, " must be a ", TypeName(type), " matrix of ", rows < 0 ? t.size(0) : rows, " x ",
        columns < 0 ? t.size(1) : columns, " beside the other tensors, got ",
        TypeName(t.scalar_type()), " ", Shape{t});
}

Tensor AddmmFwd(const Addmm& a) {
  const char* dtype = DtypeName(a.mat1, "mat1");
  CheckMatrix(a.mat1, "mat1", a.mat1, a.mat1.scalar_type(), -1, -1);
  CheckMatrix(a.mat2, "mat2", a.mat1, a.mat1.scalar_type(), a.mat1.size(1), -1);
  const int64_t m = a.mat1.size(0), k = a.mat1.size(1), n = a.mat2.size(1);
  const bool row = a.input.dim() == 1;
  if (row) {
    CheckVector(a.input, "input", a.mat1.scalar_type(), n, a.mat1);
  } else {
    CheckMatrix(a.input, "input", a.mat1, a.mat1.scalar_type(), m, n);
  }
  const Tensor z = Empty(a.mat1, {m, n}, DtypeOf(a.mat1));
  if (z.numel() == 0) return z;
  const Tensor x = WithoutGaps(a.mat1), w = WithoutGaps(a.mat2), y = WithoutGaps(a.input);
  Launch launch(SizedName("addmm", dtype, {&x, &w, &y}), x);
  launch.Pointer("X", x).Pointer("W", w).Pointer("Y", y).Pointer("Z", z);
  launch.Int("M", m).Int("N", n).Int("K", k).Stride("stride_x", x).Stride("stride_w", w);
  launch.Int("stride_y", row || m <= 1 ? 0 : y.stride(0)).Stride("stride_z", z);
  launch.Run(launch.Blocks(m, "BLOCK_M") * launch.Blocks(n, "BLOCK_N"));
  return z;
}

std::tuple<Tensor, Tensor, Tensor> AddEmbeddings(const Places& a) {
  const char* dtype = DtypeName(a.x, "x");
  CheckMatrix(a.x, "x", a.x, a.x.scalar_type(), -1, -1);
  const int64_t rows = a.x.size(0), dim = a.x.size(1);
  CheckVector(a.seq_offsets, "seq_offsets", ScalarType::Long, -1, a.x);
  Check(a.seq_offsets.size(0) >= 1, "seq_offsets must have shape (batch + 1,)");
  const int64_t batch = a.seq_offsets.size(0) - 1;
  CheckVector(a.seq_lengths, "seq_lengths", ScalarType::Long, batch, a.x);
  if (a.num_targets) CheckVector(*a.num_targets, "num_targets", ScalarType::Long, batch, a.x);
  CheckMatrix(a.positions, "positions", a.x, ScalarType::Float, -1, dim);
  CheckMatrix(a.ages, "ages", a.x, ScalarType::Float, -1, dim);
  Check(a.positions.size(0) >= 1 && a.ages.size(0) >= 1, "positions and ages must have rows");
  CheckVector(a.timestamps, "timestamps", ScalarType::Long, rows, a.x);
  Check(a.longest >= 1, "longest must be >= 1, got ", a.longest);
  const int32_t int32 = aoti_torch_dtype_int32();
  const Tensor out = Empty(a.x, {rows, dim}, DtypeOf(a.x));
  const Tensor places = Empty(a.x, {rows}, int32), buckets = Empty(a.x, {rows}, int32);
  if (rows == 0 || batch == 0 || dim == 0) {
    Check(out.numel() == 0 || a.alpha == 1.0, "alpha must be 1 without sequences, got ", a.alpha);
    torch::stable::copy_(const_cast<Tensor&>(out), a.x);
    torch::stable::fill_(places, static_cast<double>(a.positions.size(0)));
    torch::stable::fill_(buckets, static_cast<double>(a.ages.size(0)));
    return {out, places, buckets};
  }
  const Tensor x = WithoutGaps(a.x), pos = WithoutGaps(a.positions), ts = WithoutGaps(a.ages);
  const char* kernel = a.sqrt ? "position_sqrt" : "position_log";
  Launch launch(SizedName(kernel, dtype, {&x, &pos, &ts}), x);
  launch.Pointer("X", x).Pointer("OFFSETS", a.seq_offsets).Pointer("LENGTHS", a.seq_lengths);
  launch.Pointer("TARGETS", a.num_targets, a.seq_offsets).Pointer("POS", pos).Pointer("TS", ts);
  launch.Pointer("TIMES", a.timestamps).Pointer("Out", out).Pointer("PLACES", places);
  launch.Pointer("BUCKETS", buckets).Stride("stride_x", x).Stride("stride_pos", pos);
  launch.Stride("stride_ts", ts).Stride("stride_o", out).Int("batch", batch).Int("total", rows);
  launch.Int("longest", a.longest).Int("contextual", a.contextual).Int("n_pos", pos.size(0));
  launch.Int("n_ts", ts.size(0)).Int("dim", dim);
  launch.Int("rows_a_target", a.num_targets ? a.rows_a_target : 0).Float("alpha", a.alpha);
  const int64_t blocks = launch.Blocks(a.longest, "BLOCK");
  launch.Run(batch, (blocks + kBlocks - 1) / kBlocks, launch.Blocks(dim, "BLOCK_D"));
  return {out, places, buckets};
}

Tensor SumRows(const SumOfRows& a) {
  const char* dtype = DtypeName(a.grad, "grad");
  CheckMatrix(a.grad, "grad", a.grad, a.grad.scalar_type(), -1, -1);
  CheckVector(a.order, "order", ScalarType::Long, a.grad.size(0), a.grad);
  CheckVector(a.starts, "starts", ScalarType::Long, -1, a.grad);
  Check(a.starts.size(0) >= 1, "starts must have shape (rows + 1,)");
  const int64_t rows = a.starts.size(0) - 1, dim = a.grad.size(1);
  const Tensor out = Empty(a.grad, {rows, dim}, aoti_torch_dtype_float32());
  if (out.numel() == 0) return out;
  const Tensor g = WithoutGaps(a.grad);
  Launch launch(SizedName("sum_of_rows", dtype, {&g}), g);
  launch.Pointer("G", g).Pointer("ORDER", a.order).Pointer("STARTS", a.starts).Pointer("Out", out);
  launch.Stride("stride_g", g).Stride("stride_o", out).Int("dim", dim);
  launch.Run(rows, launch.Blocks(dim, "BLOCK_D"));
  return out;
}

void CheckBias(const BiasSilu& a) {
  CheckMatrix(a.x, "x", a.x, a.x.scalar_type(), -1, -1);
  CheckVector(a.bias, "bias", a.x.scalar_type(), a.x.size(1), a.x);
  Check(a.silu >= 0 && a.silu <= a.x.size(1), "silu must lie in [0, ", a.x.size(1), "], got ",
        a.silu);
}

// The name of a kernel that takes apart columns, too.
std::string ColumnsName(const char* kernel, const char* dtype, int64_t columns, bool whole,
                        std::initializer_list<const Tensor*> tensors) {
  if (whole && columns % 16 == 0) return SizedName(kernel, dtype, tensors);
  return std::string(kernel) + "." + dtype + ".any";
}

Tensor BiasSiluFwd(const BiasSilu& a) {
  const char* dtype = DtypeName(a.x, "x");
  CheckBias(a);
  const Tensor y = Empty(a.x, a.x.sizes(), DtypeOf(a.x));
  if (y.numel() == 0) return y;
  const Tensor x = WithoutGaps(a.x), b = WithoutGaps(a.bias);
  Launch launch(ColumnsName("bias_silu_fwd", dtype, a.silu, true, {&x}), x);
  launch.Pointer("X", x).Pointer("B", b).Pointer("Y", y).Stride("stride_x", x);
  launch.Stride("stride_y", y).Int("rows", x.size(0)).Int("columns", x.size(1));
  launch.Int("silu", a.silu);
  launch.Run(launch.Blocks(x.size(0), "BLOCK_N"), launch.Blocks(x.size(1), "BLOCK_D"));
  return y;
}

std::tuple<Tensor, Tensor> BiasSiluBwd(const BiasSiluBackward& a) {
  const BiasSilu& f = a.forward;
  const char* dtype = DtypeName(f.x, "x");
  CheckBias(f);
  const int64_t rows = f.x.size(0), columns = f.x.size(1);
  const int64_t values = a.du.dim() == 2 ? a.du.size(1) : 0;
  const int64_t keys = a.dq.dim() == 2 ? a.dq.size(1) : 0;
  const ScalarType type = f.x.scalar_type();
  CheckMatrix(a.du, "du", f.x, type, rows, values);
  CheckMatrix(a.dv, "dv", f.x, type, rows, values);
  CheckMatrix(a.dq, "dq", f.x, type, rows, keys);
  CheckMatrix(a.dk, "dk", f.x, type, rows, keys);
  Check(2 * (values + keys) == columns, "du, dv, dq, dk must have the ", columns,
        " columns of x, got ", 2 * (values + keys));
  const Tensor dx = Empty(f.x, f.x.sizes(), DtypeOf(f.x));
  const Tensor db = Empty(f.x, f.bias.sizes(), DtypeOf(f.x));
  if (dx.numel() == 0) {
    torch::stable::fill_(db, 0.0);
    return {dx, db};
  }
  const Tensor du = WithoutGaps(a.du), dv = WithoutGaps(a.dv), dq = WithoutGaps(a.dq),
               dk = WithoutGaps(a.dk);
  const Tensor x = WithoutGaps(f.x), b = WithoutGaps(f.bias);
  Launch launch(
      ColumnsName("bias_silu_bwd", dtype, f.silu, values > 0 && keys > 0, {&du, &dv, &dq, &dk, &x}),
      x);
  Launch total(std::string("add_up.") + dtype, x);
  const int64_t block = launch.Constant("BLOCK_N"), blocks = (rows + block - 1) / block;
  const int64_t each = (blocks + kPrograms - 1) / kPrograms * block;
  const int64_t programs = (rows + each - 1) / each;
  const Tensor sums = Empty(x, {programs, columns}, aoti_torch_dtype_float32());
  launch.Pointer("DU", du).Pointer("DV_", dv).Pointer("DQ", dq).Pointer("DK", dk);
  launch.Pointer("X", x).Pointer("B", b).Pointer("DX", dx).Pointer("SUMS", sums);
  launch.Stride("stride_du", du).Stride("stride_dv", dv).Stride("stride_dq", dq);
  launch.Stride("stride_dk", dk).Stride("stride_x", x).Stride("stride_dx", dx);
  launch.Int("rows", rows).Int("per_program", each).Int("values", values).Int("keys", keys);
  launch.Int("silu", f.silu);
  total.Pointer("SUMS", sums).Pointer("DW", db).Pointer("DB", db);
  total.Int("programs", programs).Int("columns", columns).Int("heads", 0);
  total.Ready();
  launch.Run(programs, 2 * (launch.Blocks(values, "BLOCK_D") + launch.Blocks(keys, "BLOCK_D")));
  total.Run(total.Blocks(columns, "BLOCK_D"));
  return {dx, db};
}

}  // namespace
}  // namespace accel::triton

STABLE_TORCH_LIBRARY_FRAGMENT(hstu_triton, m) {
  using namespace accel::triton;
  using accel::Schema;
  m.def(Schema<Addmm>("addmm", "Tensor").c_str());
  m.def(Schema<Places>("add_embeddings", "(Tensor out, Tensor places, Tensor buckets)").c_str());
  m.def(Schema<SumOfRows>("sum_of_rows", "Tensor").c_str());
  m.def(Schema<BiasSilu>("bias_silu", "Tensor").c_str());
  m.def(Schema<BiasSiluBackward>("bias_silu_bwd", "(Tensor dx, Tensor db)").c_str());
}

#define HSTU_TRITON_IMPL(key)                                        \
  STABLE_TORCH_LIBRARY_IMPL(hstu_triton, key, m) {                   \
    using namespace accel::triton;                                   \
    using accel::Boxed;                                              \
    m.impl("addmm", &Boxed<Addmm, &AddmmFwd>);                       \
    m.impl("add_embeddings", &Boxed<Places, &AddEmbeddings>);        \
    m.impl("sum_of_rows", &Boxed<SumOfRows, &SumRows>);              \
    m.impl("bias_silu", &Boxed<BiasSilu, &BiasSiluFwd>);             \
    m.impl("bias_silu_bwd", &Boxed<BiasSiluBackward, &BiasSiluBwd>); \
  }

HSTU_TRITON_IMPL(CUDA)
HSTU_TRITON_IMPL(CPU)
