// File: attention_ops.cc
//
// HSTU attention by the compiled kernels: forward, backward, the last rows of each sequence.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "csrc/common/device_ops.h"
#include "csrc/common/op_arguments.h"
#include "csrc/hstu_triton/launch_ops.h"

namespace accel::triton {
namespace {

constexpr int64_t kFar = 1 << 30;  // a window that ends nowhere
constexpr int64_t kShort = 256;    // rows of sequences that kernels of their own are made for

struct Rules {
  OpArguments& in;
  Tensor seq_offsets = in.GetTensor("seq_offsets");            // (batch + 1) int64
  MaybeTensor num_targets = in.GetMaybeTensor("num_targets");  // (batch) int64
  MaybeTensor order = in.GetMaybeTensor("order");              // (batch) int64
  MaybeTensor attn_scale = in.GetMaybeTensor("attn_scale");    // (rows) float32
  int64_t max_seq_len = in.GetSymInt("max_seq_len");
  double alpha = in.GetFloat("alpha");
  int64_t max_attn_len = in.GetInt("max_attn_len");
  int64_t contextual_seq_len = in.GetInt("contextual_seq_len");
  int64_t min_full_attn_seq_len = in.GetInt("min_full_attn_seq_len");

  int64_t batch() const { return seq_offsets.size(0) - 1; }
  int64_t present() const { return (num_targets ? 1 : 0) | (order ? 2 : 0) | (attn_scale ? 4 : 0); }
  bool general() const { return present() != 0 || max_attn_len > 0 || contextual_seq_len > 0; }

  void CheckAgainst(const Tensor& q) const {
    Check(max_seq_len >= 1, "max_seq_len must be >= 1, got ", max_seq_len);
    CheckVector(seq_offsets, "seq_offsets", ScalarType::Long, -1, q);
    Check(seq_offsets.size(0) >= 1, "seq_offsets must have shape (batch + 1,)");
    if (num_targets) CheckVector(*num_targets, "num_targets", ScalarType::Long, batch(), q);
    if (order) CheckVector(*order, "order", ScalarType::Long, batch(), q);
    if (attn_scale) CheckVector(*attn_scale, "attn_scale", ScalarType::Float, q.size(0), q);
  }

  void PassTensors(Launch& launch, const Tensor& unread) const {
    launch.Pointer("OFFSETS", seq_offsets)
        .Pointer("TARGETS", num_targets, unread)
        .Pointer("ORDER", order, unread)
        .Pointer("SCALE", attn_scale, unread);
  }

  void PassNumbers(Launch& launch) const {
    const bool full = max_attn_len > 0 && min_full_attn_seq_len > 0;
    launch.Int("window", max_attn_len > 0 ? max_attn_len : kFar)
        .Int("full", full ? min_full_attn_seq_len : -kFar)
        .Int("contextual", contextual_seq_len)
        .Int("present", present());
  }
};

struct Forward {
  OpArguments& in;
  Tensor q = in.GetTensor("q");  // (rows, heads, dim)
  Tensor k = in.GetTensor("k");
  Tensor v = in.GetTensor("v");
  Rules rules{in};
};

struct Backward {
  OpArguments& in;
  Tensor dout = in.GetTensor("dout");
  Forward forward{in};
};

// A tensor that the kernels can read: rows and heads at multiples of 16 numbers.
bool Aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 && t.stride(2) == 1 &&
         (t.size(0) <= 1 || t.stride(0) % 16 == 0) && (t.size(1) <= 1 || t.stride(1) % 16 == 0);
}

Tensor Readable16(const Tensor& t) {
  if (Aligned(t)) return t;
  Tensor copy = Empty(t, t.sizes(), DtypeOf(t));
  torch::stable::copy_(copy, t);
  return copy;
}

void CheckShapes(const Tensor& q, const Tensor& k, const Tensor& v, const char* query) {
  Check(q.dim() == 3, query, " must have shape (rows, heads, dim), got ", Shape{q});
  for (const auto& [t, name] : {std::pair{&k, "k"}, std::pair{&v, "v"}}) {
    Check(t->dim() == 3 && t->scalar_type() == q.scalar_type() && SameDevice(*t, q) &&
              t->size(1) == q.size(1) && t->size(2) == q.size(2) && t->size(0) == k.size(0),
          name, " must have the dtype, the device, the heads and the dim of ", query,
          " with TRITON_CC: got ", Shape{*t}, " beside ", Shape{q});
  }
}

std::string NameOf(const char* kernel, const Tensor& q, const char* kind, bool general) {
  std::string name;
  name.reserve(64);  // once
  name.append(kernel).append(".").append(DtypeName(q, "q")).append(".");
  name.append(std::to_string(q.size(2))).append(".").append(kind);
  return name.append(general ? ".general" : ".causal");
}

// What a name with "short" stands for, if there is such a kernel.
std::string ForLength(const char* kernel, const Tensor& q, const Rules& r) {
  const std::string name = NameOf(kernel, q, "short", r.general());
  if (r.max_seq_len <= kShort && Has(name, q)) return name;
  return NameOf(kernel, q, "long", r.general());
}

Tensor Attend(const Tensor& q, const Tensor& k, const Tensor& v, const Rules& r, int64_t delta) {
  CheckShapes(q, k, v, delta > 0 ? "delta_q" : "q");
  r.CheckAgainst(q);
  const int64_t heads = q.size(1), batch = r.batch();
  const Tensor out = Empty(q, {q.size(0), heads, v.size(2)}, DtypeOf(q));
  if (batch == 0 || out.numel() == 0) return torch::stable::fill_(out, 0.0);
  const Tensor qr = Readable16(q), kr = Readable16(k), vr = Readable16(v);
  Launch launch(
      delta > 0 ? NameOf("attention_fwd", q, "delta", true) : ForLength("attention_fwd", q, r), q);
  launch.Pointer("Q", qr).Pointer("K", kr).Pointer("V", vr);
  r.PassTensors(launch, qr);
  launch.Pointer("Out", out);
  launch.Stride("stride_q", qr).Stride("stride_k", kr).Stride("stride_v", vr);
  launch.Stride("stride_o", out).Stride("stride_qh", qr, 1);
  launch.Stride("stride_kh", kr, 1).Stride("stride_vh", vr, 1);
  launch.Stride("stride_oh", out, 1).Float("alpha", r.alpha);
  launch.Float("scale", 1.0 / static_cast<double>(r.max_seq_len)).Int("H", heads);
  launch.Int("batch", batch).Int("total", out.size(0)).Int("N", r.max_seq_len).Int("delta", delta);
  r.PassNumbers(launch);
  launch.Run(batch * heads, launch.Blocks(delta > 0 ? delta : r.max_seq_len, "BLOCK_M"));
  return out;
}

Tensor AttentionFwd(const Forward& a) { return Attend(a.q, a.k, a.v, a.rules, 0); }

Tensor DeltaAttention(const Forward& a) {
  const int64_t batch = std::max<int64_t>(a.rules.batch(), 1);
  Check(a.q.dim() == 3 && a.q.size(0) % batch == 0, "delta_q must have a multiple of ", batch,
        " rows, one for each sequence, got ", Shape{a.q});
  return Attend(a.q, a.k, a.v, a.rules, a.q.size(0) / batch);
}

std::tuple<Tensor, Tensor, Tensor> AttentionBwd(const Backward& a) {
  const auto& [in, q, k, v, r] = a.forward;
  const int32_t dtype = DtypeOf(q);
  CheckShapes(q, k, v, "q");
  r.CheckAgainst(q);
  Check(a.dout.scalar_type() == q.scalar_type() && a.dout.dim() == 3 && SameDevice(a.dout, q) &&
            a.dout.size(0) == q.size(0) && a.dout.size(2) == v.size(2),
        "dout must have the shape of the result, got ", Shape{a.dout});
  const Tensor dq = Empty(q, q.sizes(), dtype), dk = Empty(q, k.sizes(), dtype);
  const Tensor dv = Empty(q, v.sizes(), dtype);
  const int64_t heads = q.size(1), batch = r.batch();
  if (batch == 0 || q.numel() == 0) {
    for (const Tensor* t : {&dq, &dk, &dv}) torch::stable::fill_(*t, 0.0);
    return {dq, dk, dv};
  }
  const Tensor qr = Readable16(q), kr = Readable16(k), vr = Readable16(v);
  const Tensor dor = Readable16(a.dout);
  Launch columns(ForLength("attention_bwd_columns", q, r), q);
  Launch rows(ForLength("attention_bwd_rows", q, r), q);
  const std::pair<const char*, const Tensor*> strided[] = {
      {"q", &qr}, {"k", &kr}, {"v", &vr}, {"do", &dor}, {"dq", &dq}, {"dk", &dk}, {"dv", &dv}};
  for (Launch* launch : {&columns, &rows}) {
    launch->Pointer("Q", qr).Pointer("K", kr).Pointer("V", vr);
    r.PassTensors(*launch, qr);
    launch->Pointer("DO", dor).Pointer("DQ", dq).Pointer("DK", dk).Pointer("DV_", dv);
    for (const auto& [name, t] : strided) {
      launch->Stride((std::string("stride_") + name).c_str(), *t);
    }
    for (const auto& [name, t] : strided) {
      launch->Stride((std::string("stride_") + name + "h").c_str(), *t, 1);
    }
    launch->Float("alpha", r.alpha).Float("scale", 1.0 / static_cast<double>(r.max_seq_len));
    launch->Int("H", heads).Int("batch", batch).Int("total", q.size(0)).Int("N", r.max_seq_len);
    r.PassNumbers(*launch);
  }
  rows.Ready();
  columns.Run(batch * heads, columns.Blocks(r.max_seq_len, "BLOCK_N"));
  rows.Run(batch * heads, rows.Blocks(r.max_seq_len, "BLOCK_M"));
  return {dq, dk, dv};
}

}  // namespace
}  // namespace accel::triton

STABLE_TORCH_LIBRARY_FRAGMENT(hstu_triton, m) {
  using namespace accel::triton;
  using accel::Schema;
  m.def(Schema<Forward>("attention_fwd", "Tensor").c_str());
  m.def(Schema<Forward>("delta_attention", "Tensor").c_str());
  m.def(Schema<Backward>("attention_bwd", "(Tensor dq, Tensor dk, Tensor dv)").c_str());
}

#define HSTU_TRITON_IMPL(key)                                    \
  STABLE_TORCH_LIBRARY_IMPL(hstu_triton, key, m) {               \
    using namespace accel::triton;                               \
    using accel::Boxed;                                          \
    m.impl("attention_fwd", &Boxed<Forward, &AttentionFwd>);     \
    m.impl("delta_attention", &Boxed<Forward, &DeltaAttention>); \
    m.impl("attention_bwd", &Boxed<Backward, &AttentionBwd>);    \
  }

HSTU_TRITON_IMPL(CUDA)
HSTU_TRITON_IMPL(CPU)
