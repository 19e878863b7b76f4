// File: ops.cc
//
// The torch ops of HSTU attention: schemas, and CUDA implementations that turn tensors into
// FwdParams and BwdParams. Whatever can be said of a call without the values of its tensors is
// checked here, before anything is allocated or launched: an eager call comes here first, and the
// Python package's checks run only to name the error better. CPU, autograd and fake implementations
// are in Python.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "csrc/common/build_info.h"
#include "csrc/common/environment.h"
#include "csrc/common/errors.h"
#include "csrc/common/op_arguments.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/window.h"

ACCEL_PACKAGE("hstu_attn");

namespace accel::hstu {
namespace {

// ---- Arguments, in the order of the schemas

struct Common {
  OpArguments& in;
  Tensor cu_seqlens_q = in.GetTensor("cu_seqlens_q");  // (B + 1) int32
  Tensor cu_seqlens_k = in.GetTensor("cu_seqlens_k");  // (B + 1) int32
  int64_t max_seqlen_q = in.GetSymInt("max_seqlen_q");
  int64_t max_seqlen_k = in.GetSymInt("max_seqlen_k");
  int64_t scaling_seqlen = in.GetSymInt("scaling_seqlen");
  MaybeTensor num_contexts = in.GetMaybeTensor("num_contexts");  // (B) int32
  MaybeTensor num_targets = in.GetMaybeTensor("num_targets");    // (B) int32
  int64_t target_group_size = in.GetInt("target_group_size");
  int64_t window_left = in.GetInt("window_left");
  int64_t window_right = in.GetInt("window_right");
  double alpha = in.GetFloat("alpha");
  MaybeTensor rab = in.GetMaybeTensor("rab");  // (B, H or 1, max_seqlen_k, max_seqlen_k)
  bool has_drab = in.GetBool("has_drab");
  MaybeTensor func = in.GetMaybeTensor("func");  // (1, n_func, >= total_q) int32
  bool deterministic = in.GetBool("deterministic");
};

struct Pages {
  OpArguments& in;
  MaybeTensor kv_cache = in.GetMaybeTensor("kv_cache");  // (pages, 2, page_size, heads_k, D)
  MaybeTensor page_offsets = in.GetMaybeTensor("page_offsets");  // (B + 1) int32
  MaybeTensor page_ids = in.GetMaybeTensor("page_ids");          // (>= page_offsets[B]) int32
  // (B) int32; says nothing that cu_seqlens_k does not.
  MaybeTensor last_page_lens = in.GetMaybeTensor("last_page_lens");
};

struct Varlen {
  OpArguments& in;
  Tensor q = in.GetTensor("q");
  Tensor k = in.GetTensor("k");
  Tensor v = in.GetTensor("v");
  Common common{in};
};

struct VarlenForward : Varlen {
  explicit VarlenForward(OpArguments& in) : Varlen{in} {}
  Pages pages{in};
};

struct VarlenBackward {
  OpArguments& in;
  Tensor dout = in.GetTensor("dout");
  Varlen forward{in};
};

struct PackedForward {
  OpArguments& in;
  Tensor qkv = in.GetTensor("qkv");  // (total, 3, heads, D)
  Common common{in};
};

struct PackedBackward {
  OpArguments& in;
  Tensor dout = in.GetTensor("dout");
  PackedForward forward{in};
};

// ---- Tensors to parameters

Rows RowsOf(const Tensor& t) {
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1)};
}

DType CheckedDType(const Tensor& q) {
  switch (q.scalar_type()) {
    case ScalarType::BFloat16:
      Require(feature::kBf16, "bfloat16");
      return DType::kBf16;
    case ScalarType::Half:
      Require(feature::kFp16, "float16");
      return DType::kFp16;
    default:
      Fail("q must be bfloat16 or float16 on a GPU");
  }
}

int32_t CheckedHeadDim(int64_t head_dim) {
  constexpr std::pair<int32_t, Feature> kHeadDims[] = {{32, feature::kHdim32},
                                                       {64, feature::kHdim64},
                                                       {128, feature::kHdim128},
                                                       {256, feature::kHdim256}};
  for (const auto& [allowed, feature] : kHeadDims) {
    if (head_dim != allowed) continue;
    Require(feature, "head dim ", allowed);
    return allowed;
  }
  Fail("head dim ", head_dim, ": allowed are 32, 64, 128, 256");
}

void FillMask(const Tensor& q, int64_t batch, const Common& a, MaskParams* mask) {
  mask->window_left = WindowSide(a.window_left);
  mask->window_right = WindowSide(a.window_right);
  if (mask->window_left < 0 && mask->window_right == 0) {
    Require(feature::kCausal, "the causal mask");
  } else if (mask->window_left >= 0 || mask->window_right >= 0) {
    Require(feature::kLocal, "the local mask");
  }
  Check((!a.num_contexts && !a.num_targets) || (a.window_left == -1 && a.window_right == 0),
        "num_contexts and num_targets need the causal window_size (-1, 0), got (", a.window_left,
        ", ", a.window_right, ")");
  Check(a.target_group_size == 1 || (a.target_group_size > 1 && a.num_targets),
        "target_group_size must be >= 1, and 1 without num_targets, got ", a.target_group_size);
  if (a.num_contexts) {
    Require(feature::kContext, "num_contexts");
    CheckInt32(*a.num_contexts, "num_contexts", batch, q);
    mask->num_contexts = Int32OrNull(a.num_contexts);
  }
  if (a.num_targets) {
    Require(feature::kTarget, "num_targets");
    CheckInt32(*a.num_targets, "num_targets", batch, q);
    mask->num_targets = Int32OrNull(a.num_targets);
    mask->target_group_size = ToInt32(a.target_group_size, "target_group_size");
  }
  if (a.func) {
    Require(feature::kArbitrary, "func");
    const Tensor& func = *a.func;
    Check(a.window_left == -1 && a.window_right == -1, "func needs the window_size (-1, -1), got (",
          a.window_left, ", ", a.window_right, ")");
    Check(func.scalar_type() == ScalarType::Int && func.dim() == 3 && func.size(0) == 1 &&
              func.size(1) % 2 == 1 && func.size(2) >= q.size(0) && func.stride(2) == 1 &&
              OnDeviceOf(func, q),
          "func must be an int32 tensor (1, odd n_func, >= total_q), last stride 1, on the device "
          "of q");
    mask->func = Int32OrNull(a.func);
    mask->n_func = ToInt32(func.size(1), "n_func");
    mask->func_stride = func.stride(1);
  }
}

// One head is read for every head.
Rab CheckedRab(const Tensor& rab, const Tensor& q, int64_t batch, int64_t max_seqlen_k) {
  Require(feature::kRab, "rab");
  CheckLike(rab, "rab", 4, q);
  Check(rab.size(0) == batch && (rab.size(1) == 1 || rab.size(1) == q.size(1)) &&
            rab.size(2) == max_seqlen_k && rab.size(3) == max_seqlen_k &&
            (rab.size(3) <= 1 || rab.stride(3) == 1),
        "rab must be (batch, 1 or heads, max_seqlen_k, max_seqlen_k) with last stride 1, got ",
        Shape{rab});
  return {const_cast<void*>(rab.const_data_ptr()), rab.stride(0),
          rab.size(1) == 1 ? 0 : rab.stride(1), rab.stride(2)};
}

// Fills everything but q, k, v; checks what the kernels index by.
void FillProblem(const Tensor& q, const Tensor& k, const Tensor& v, const Common& a, Problem* p) {
  Check(q.is_cuda() && q.dim() == 3, "q must be a CUDA tensor (total_q, heads, D)");
  CheckLike(k, "k", 3, q);
  CheckLike(v, "v", 3, q);
  Check(q.stride(2) == 1 && k.stride(2) == 1 && v.stride(2) == 1,
        "q, k and v must have last stride 1, got ", q.stride(2), ", ", k.stride(2), " and ",
        v.stride(2));
  Check(k.size(0) == v.size(0) && k.size(1) == v.size(1) && k.size(2) == q.size(2) &&
            v.size(2) == q.size(2) && k.size(1) > 0 && q.size(1) % k.size(1) == 0,
        "the shapes of q ", Shape{q}, ", k ", Shape{k}, " and v ", Shape{v}, " do not agree");
  const int64_t batch = a.cu_seqlens_q.numel() - 1;
  Check(batch >= 0, "cu_seqlens_q must have batch + 1 elements, got none");
  CheckInt32(a.cu_seqlens_q, "cu_seqlens_q", batch + 1, q);
  CheckInt32(a.cu_seqlens_k, "cu_seqlens_k", batch + 1, q);
  Check(a.max_seqlen_q >= 0 && a.max_seqlen_q <= a.max_seqlen_k,
        "max_seqlen_q must be from 0 to max_seqlen_k = ", a.max_seqlen_k, ", got ", a.max_seqlen_q);
  Check(a.scaling_seqlen >= 1, "scaling_seqlen must be >= 1, got ", a.scaling_seqlen);
  Check(std::isfinite(static_cast<float>(a.alpha)), "alpha must be a finite float32, got ",
        a.alpha);
  Check(!a.has_drab || a.rab, "has_drab needs rab");

  p->dtype = CheckedDType(q);
  p->head_dim = CheckedHeadDim(q.size(2));
  p->batch = ToInt32(batch, "batch");
  p->heads = ToInt32(q.size(1), "heads");
  p->heads_k = ToInt32(k.size(1), "heads of k");
  p->total_q = ToInt32(q.size(0), "total_q");
  p->total_k = ToInt32(k.size(0), "total_k");
  p->max_seqlen_q = ToInt32(a.max_seqlen_q, "max_seqlen_q");
  p->max_seqlen_k = ToInt32(a.max_seqlen_k, "max_seqlen_k");
  p->cu_seqlens_q = static_cast<const int32_t*>(a.cu_seqlens_q.const_data_ptr());
  p->cu_seqlens_k = static_cast<const int32_t*>(a.cu_seqlens_k.const_data_ptr());
  p->alpha = static_cast<float>(a.alpha);
  p->inv_n = 1.0f / static_cast<float>(a.scaling_seqlen);
  // Kernels as for a GPU whose multiprocessors have so many kilobytes of shared memory: for tests.
  p->smem_kb = EnvironmentNumber("HSTU_SMEM_KB", 100, 1024);
  FillMask(q, batch, a, &p->mask);
  if (a.rab) p->rab = CheckedRab(*a.rab, q, batch, a.max_seqlen_k);
}

void FillPages(const Tensor& q, const Tensor& k, const Pages& a, bool has_drab, FwdParams* p) {
  const bool all = a.page_offsets && a.page_ids && a.last_page_lens;
  const bool any = a.page_offsets || a.page_ids || a.last_page_lens;
  Check(a.kv_cache ? all : !any, "kv_cache, page_offsets, page_ids and last_page_lens go together");
  if (!a.kv_cache) return;
  Check(!has_drab, "has_drab is not possible with kv_cache");
  const Tensor& cache = *a.kv_cache;
  CheckLike(cache, "kv_cache", 5, q);
  Check(cache.size(1) == 2 && cache.size(3) == k.size(1) && cache.size(4) == q.size(2) &&
            cache.size(2) >= 16 && cache.size(2) <= 256 && cache.stride(4) == 1 &&
            k.size(0) == q.size(0),
        "kv_cache must be (pages, 2, 16 to 256, heads of k, head dim) with last stride 1, and k "
        "and v must have the rows of q");
  for (int d = 0; d < 4; ++d) {
    Check(cache.stride(d) % 8 == 0, "the strides of kv_cache must be multiples of 8");
  }
  Check(reinterpret_cast<uintptr_t>(cache.const_data_ptr()) % 16 == 0,
        "kv_cache must start on a 16-byte boundary");
  CheckInt32(*a.page_offsets, "page_offsets", p->batch + 1, q);
  CheckInt32(*a.page_ids, "page_ids", a.page_ids->numel(), q);
  CheckInt32(*a.last_page_lens, "last_page_lens", p->batch, q);
  p->kv = {cache.const_data_ptr(),
           cache.stride(0),
           cache.stride(1),
           cache.stride(2),
           cache.stride(3),
           ToInt32(cache.size(2), "page_size"),
           Int32OrNull(a.page_offsets),
           Int32OrNull(a.page_ids)};
}

// The features that can be named were checked before; what is not supported after that depends on
// the GPU.
void CheckHstuLaunch(int code, const char* what, const Tensor& q) {
  if (code == cudaErrorNotSupported) {
    Check(kWith86or89, what,
          " needs a kernel for GPUs with 99 KB of shared memory per block, which is not in this "
          "build (",
          feature::k86or89.flag, ")");
    Fail(what, " for q ", Shape{q}, " is not in this build; `python -m hstu_attn` lists what is");
  }
  CheckLaunch(code, what, HSTU_ATTN_ARCHS);
}

bool NothingToDo(const Problem& p) { return p.batch == 0 || p.total_q == 0 || p.total_k == 0; }

// ---- Forward

Tensor Forward(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Common& a,
               const Pages* pages) {
  FwdParams p;
  FillProblem(q_in, k_in, v_in, a, &p);
  if (pages != nullptr) FillPages(q_in, k_in, *pages, a.has_drab, &p);
  if (NothingToDo(p)) return torch::stable::new_zeros(q_in, q_in.sizes());

  const torch::stable::accelerator::DeviceGuard guard(q_in.get_device_index());
  const Tensor q = Readable(q_in), k = Readable(k_in), v = Readable(v_in);
  const Tensor out = EmptyLike(q);
  p.q = RowsOf(q);
  p.k = RowsOf(k);
  p.v = RowsOf(v);
  p.o = RowsOf(out);
  const Scratch workspace(q, FwdWorkspaceBytes(p));
  const int code = Fwd(p, workspace.data(), CurrentStream(q.get_device_index()));
  CheckHstuLaunch(code, "the forward", q);
  return out;
}

Tensor VarlenFwd(const VarlenForward& a) { return Forward(a.q, a.k, a.v, a.common, &a.pages); }

Tensor PackedFwd(const PackedForward& a) {
  const auto [q, k, v] = Unpacked(a.qkv, "qkv");
  return Forward(q, k, v, a.common, nullptr);
}

// ---- Backward

// Fills dq, dk, dv (contiguous in their last dimension) and returns the gradient of rab, or an
// empty tensor when it is not wanted.
Tensor Backward(const Tensor& dout_in, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                const Common& a, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  Require(feature::kBackward, "the backward");
  if (a.deterministic) Require(feature::kDeterministic, "deterministic=True");
  BwdParams p;
  FillProblem(q_in, k_in, v_in, a, &p);
  CheckLike(dout_in, "dout", 3, q_in);
  Check(dout_in.size(0) == q_in.size(0) && dout_in.size(1) == q_in.size(1) &&
            dout_in.size(2) == q_in.size(2),
        "dout must have the shape of q, got ", Shape{dout_in});
  if (a.has_drab) Require(feature::kDrab, "the gradient of rab");

  if (NothingToDo(p)) {
    for (Tensor t : {dq, dk, dv}) torch::stable::zero_(t);
    return a.has_drab ? torch::stable::new_zeros(*a.rab, a.rab->sizes())
                      : torch::stable::new_empty(q_in, {0});
  }

  const torch::stable::accelerator::DeviceGuard guard(q_in.get_device_index());
  const Tensor q = Readable(q_in), k = Readable(k_in), v = Readable(v_in), dout = Readable(dout_in);
  p.q = RowsOf(q);
  p.k = RowsOf(k);
  p.v = RowsOf(v);
  p.d_o = RowsOf(dout);
  p.dq = RowsOf(dq);
  p.dk = RowsOf(dk);
  p.dv = RowsOf(dv);
  p.deterministic = a.deterministic;
  const std::array<int64_t, 4> shape = {p.batch, p.heads, a.max_seqlen_k, a.max_seqlen_k};
  Tensor drab = a.has_drab ? EmptyLike(q, shape) : EmptyLike(q, int64_t{0});
  if (a.has_drab) {
    p.drab = {drab.mutable_data_ptr(), drab.stride(0), drab.stride(1), drab.stride(2)};
  }
  const Scratch workspace(q, BwdWorkspaceBytes(p));
  const int code = Bwd(p, workspace.data(), CurrentStream(q.get_device_index()));
  CheckHstuLaunch(code, "the backward", q);
  if (a.has_drab && a.rab->size(1) == 1 && p.heads > 1) {
    const int64_t heads_dim = 1;
    drab = torch::stable::sum(drab, torch::headeronly::IntHeaderOnlyArrayRef(&heads_dim, 1), true);
  }
  return drab;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> VarlenBwd(const VarlenBackward& a) {
  const auto& [in, q, k, v, common] = a.forward;
  const Tensor dq = EmptyLike(q), dk = EmptyLike(k), dv = EmptyLike(v);
  const Tensor drab = Backward(a.dout, q, k, v, common, dq, dk, dv);
  return {dq, dk, dv, drab};
}

std::tuple<Tensor, Tensor> PackedBwd(const PackedBackward& a) {
  const Tensor& qkv = a.forward.qkv;
  const auto [q, k, v] = Unpacked(qkv, "qkv");
  const Tensor dqkv = EmptyLike(qkv);
  const auto [dq, dk, dv] = Unpacked(dqkv, "dqkv");
  const Tensor drab = Backward(a.dout, q, k, v, a.forward.common, dq, dk, dv);
  return {dqkv, drab};
}

std::string ThisBuild() {
  return BuildInfo(HSTU_ATTN_VERSION, HSTU_ATTN_ARCHS, CUDART_VERSION, kFeatures);
}

}  // namespace
}  // namespace accel::hstu

STABLE_TORCH_LIBRARY(hstu_attn, m) {
  using namespace accel::hstu;
  using accel::Schema;
  m.def(Schema<VarlenForward>("varlen_fwd", "Tensor").c_str());
  m.def(Schema<VarlenBackward>("varlen_bwd", "(Tensor dq, Tensor dk, Tensor dv, Tensor drab)")
            .c_str());
  m.def(Schema<PackedForward>("qkvpacked_fwd", "Tensor").c_str());
  m.def(Schema<PackedBackward>("qkvpacked_bwd", "(Tensor dqkv, Tensor drab)").c_str());
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(hstu_attn, CUDA, m) {
  using namespace accel::hstu;
  using accel::Boxed;
  m.impl("varlen_fwd", &Boxed<VarlenForward, &VarlenFwd>);
  m.impl("varlen_bwd", &Boxed<VarlenBackward, &VarlenBwd>);
  m.impl("qkvpacked_fwd", &Boxed<PackedForward, &PackedFwd>);
  m.impl("qkvpacked_bwd", &Boxed<PackedBackward, &PackedBwd>);
}

STABLE_TORCH_LIBRARY_IMPL(hstu_attn, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&accel::hstu::ThisBuild));
}
