// File: ops.cc
//
// The torch ops of HSTU attention: schemas, and CUDA implementations that turn tensors into
// FwdParams and BwdParams. The Python package checks arguments in full and names them; here only
// what keeps a kernel from reading or writing outside a tensor is checked again, because anyone
// can call torch.ops.hstu_attn.* directly. CPU, autograd and fake implementations are in Python.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

#include "csrc/common/build_info.h"
#include "csrc/common/errors.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask.h"

#ifndef HSTU_ATTN_VERSION
#define HSTU_ATTN_VERSION "0+unknown"
#endif
#ifndef HSTU_ATTN_ARCHS
#define HSTU_ATTN_ARCHS "unknown"
#endif

ACCEL_PACKAGE("hstu_attn");

namespace accel {
namespace {

// ---------------------------------------------------------------------------
// What is in this build
// ---------------------------------------------------------------------------

constexpr Feature kBackward{"HSTU_DISABLE_BACKWARD", "BACKWARD", hstu::kWithBackward};
constexpr Feature kDeterministic{"HSTU_DISABLE_DETERMINISTIC", "DETERMINISTIC",
                                 hstu::kWithDeterministic};
constexpr Feature kLocal{"HSTU_DISABLE_LOCAL", "LOCAL", hstu::kWithLocal};
constexpr Feature kCausal{"HSTU_DISABLE_CAUSAL", "CAUSAL", hstu::kWithCausal};
constexpr Feature kContext{"HSTU_DISABLE_CONTEXT", "CONTEXT", hstu::kWithContext};
constexpr Feature kTarget{"HSTU_DISABLE_TARGET", "TARGET", hstu::kWithTarget};
constexpr Feature kArbitrary{"HSTU_DISABLE_ARBITRARY", "ARBITRARY", hstu::kWithArbitrary};
constexpr Feature kRab{"HSTU_DISABLE_RAB", "RAB", hstu::kWithRab};
constexpr Feature kDrab{"HSTU_DISABLE_DRAB", "DRAB", hstu::kWithDrab};
constexpr Feature kBf16{"HSTU_DISABLE_BF16", "BF16", hstu::kWithBf16};
constexpr Feature kFp16{"HSTU_DISABLE_FP16", "FP16", hstu::kWithFp16};
constexpr Feature kHdim32{"HSTU_DISABLE_HDIM32", "HDIM32", hstu::kWithHeadDim32};
constexpr Feature kHdim64{"HSTU_DISABLE_HDIM64", "HDIM64", hstu::kWithHeadDim64};
constexpr Feature kHdim128{"HSTU_DISABLE_HDIM128", "HDIM128", hstu::kWithHeadDim128};
constexpr Feature kHdim256{"HSTU_DISABLE_HDIM256", "HDIM256", hstu::kWithHeadDim256};
constexpr Feature k86Or89{"HSTU_DISABLE_86OR89", "86OR89", hstu::kWith86Or89};
constexpr Feature kFeatures[] = {kBackward,  kDeterministic, kLocal,   kCausal, kContext, kTarget,
                                 kArbitrary, kRab,           kDrab,    kBf16,   kFp16,    kHdim32,
                                 kHdim64,    kHdim128,       kHdim256, k86Or89};

std::string build_info() {
  return BuildInfo(HSTU_ATTN_VERSION, HSTU_ATTN_ARCHS, CUDART_VERSION, kFeatures);
}

// ---------------------------------------------------------------------------
// Tensors to parameters
// ---------------------------------------------------------------------------

// The arguments that every op has.
struct Common {
  const Tensor& cu_seqlens_q;  // (B + 1) int32
  const Tensor& cu_seqlens_k;  // (B + 1) int32
  int64_t max_seqlen_q, max_seqlen_k, scaling_seqlen;
  const MaybeTensor& num_contexts;  // (B) int32
  const MaybeTensor& num_targets;   // (B) int32
  int64_t target_group_size, window_left, window_right;
  double alpha;
  const MaybeTensor& rab;   // (B, H or 1, max_seqlen_k, max_seqlen_k)
  const MaybeTensor& func;  // (1, n_func, >= total_q) int32
};

// A window side; anything beyond int32 sees as far as no bound at all.
int32_t window_side(int64_t value) {
  return value < 0 || value > std::numeric_limits<int32_t>::max() ? -1
                                                                  : static_cast<int32_t>(value);
}

hstu::Rows rows(const Tensor& t) {
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1)};
}

// (batch, heads, rows, columns); one head is read for every head.
hstu::Rab bias(const Tensor& t) {
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.size(1) == 1 ? 0 : t.stride(1),
          t.stride(2)};
}

// HSTU_SMEM_KB: kernels as for a GPU whose multiprocessors have so much shared memory. For tests
// and for comparisons on a GPU that has more.
int32_t wanted_smem_kb() {
  const char* const text = std::getenv("HSTU_SMEM_KB");
  if (text == nullptr || *text == '\0') return 0;
  constexpr int kLeast = 100, kMost = 1024;
  int value = 0;
  const char* const end = text + std::strlen(text);
  const auto [at, error] = std::from_chars(text, end, value);
  Check(error == std::errc() && at == end && value >= kLeast && value <= kMost,
        "HSTU_SMEM_KB must be a number of kilobytes from 100 to 1024, got '", text, "'");
  return value;
}

// Fills everything but q, k, v; checks what the kernels index by.
void fill_problem(hstu::Problem& p, const Tensor& q, const Tensor& k, const Tensor& v,
                  const Common& a) {
  Check(q.is_cuda() && q.dim() == 3, "q must be a CUDA tensor (total_q, heads, D)");
  CheckLike(k, "k", 3, q);
  CheckLike(v, "v", 3, q);
  Check(k.size(0) == v.size(0) && k.size(1) == v.size(1) && k.size(2) == q.size(2) &&
            v.size(2) == q.size(2) && k.size(1) > 0 && q.size(1) % k.size(1) == 0,
        "the shapes of q ", Shape{q}, ", k ", Shape{k}, " and v ", Shape{v}, " do not agree");
  Check(a.cu_seqlens_q.numel() == a.cu_seqlens_k.numel() && a.cu_seqlens_q.numel() >= 1,
        "cu_seqlens_q and cu_seqlens_k must both have batch + 1 elements");
  CheckInt32(a.cu_seqlens_q, "cu_seqlens_q", 1, q);
  CheckInt32(a.cu_seqlens_k, "cu_seqlens_k", 1, q);
  Check(a.max_seqlen_q >= 0 && a.max_seqlen_k >= 0 && a.scaling_seqlen >= 1,
        "max_seqlen_q and max_seqlen_k must be >= 0 and scaling_seqlen >= 1");

  switch (q.scalar_type()) {
    case ScalarType::BFloat16:
      Require(kBf16, "bfloat16");
      p.dtype = hstu::DType::kBf16;
      break;
    case ScalarType::Half:
      Require(kFp16, "float16");
      p.dtype = hstu::DType::kFp16;
      break;
    default:
      Fail("q must be bfloat16 or float16 on a GPU");
  }
  switch (q.size(2)) {
    case 32:
      Require(kHdim32, "head dim 32");
      break;
    case 64:
      Require(kHdim64, "head dim 64");
      break;
    case 128:
      Require(kHdim128, "head dim 128");
      break;
    case 256:
      Require(kHdim256, "head dim 256");
      break;
    default:
      Fail("head dim ", q.size(2), ": allowed are 32, 64, 128, 256");
  }
  const int64_t batch = a.cu_seqlens_q.numel() - 1;
  p.head_dim = static_cast<int32_t>(q.size(2));
  p.batch = ToInt32(batch, "batch");
  p.heads = ToInt32(q.size(1), "heads");
  p.heads_k = ToInt32(k.size(1), "heads of k");
  p.total_q = ToInt32(q.size(0), "total_q");
  p.total_k = ToInt32(k.size(0), "total_k");
  p.max_seqlen_q = ToInt32(a.max_seqlen_q, "max_seqlen_q");
  p.max_seqlen_k = ToInt32(a.max_seqlen_k, "max_seqlen_k");
  p.cu_seqlens_q = static_cast<const int32_t*>(a.cu_seqlens_q.const_data_ptr());
  p.cu_seqlens_k = static_cast<const int32_t*>(a.cu_seqlens_k.const_data_ptr());
  p.alpha = static_cast<float>(a.alpha);
  p.inv_n = 1.0f / static_cast<float>(a.scaling_seqlen);
  p.smem_kb = wanted_smem_kb();

  hstu::MaskParams& mask = p.mask;
  mask.window_left = window_side(a.window_left);
  mask.window_right = window_side(a.window_right);
  if (mask.window_left < 0 && mask.window_right == 0) {
    Require(kCausal, "the causal mask");
  } else if (mask.window_left >= 0 || mask.window_right >= 0) {
    Require(kLocal, "the local mask");
  }
  if (a.num_contexts) {
    Require(kContext, "num_contexts");
    CheckInt32(*a.num_contexts, "num_contexts", batch, q);
    mask.num_contexts = Int32OrNull(a.num_contexts);
  }
  if (a.num_targets) {
    Require(kTarget, "num_targets");
    CheckInt32(*a.num_targets, "num_targets", batch, q);
    Check(a.target_group_size >= 1, "target_group_size must be >= 1");
    mask.num_targets = Int32OrNull(a.num_targets);
    mask.target_group_size = ToInt32(a.target_group_size, "target_group_size");
  }
  if (a.func) {
    Require(kArbitrary, "func");
    const Tensor& func = *a.func;
    Check(func.scalar_type() == ScalarType::Int && func.dim() == 3 && func.size(0) == 1 &&
              func.size(1) % 2 == 1 && func.size(2) >= q.size(0) && func.stride(2) == 1 &&
              func.is_cuda() && func.get_device_index() == q.get_device_index(),
          "func must be an int32 tensor (1, odd n_func, >= total_q), last stride 1, on "
          "the device of q");
    mask.func = static_cast<const int32_t*>(func.const_data_ptr());
    mask.n_func = ToInt32(func.size(1), "n_func");
    mask.func_stride = func.stride(1);
  }
  if (a.rab) {
    Require(kRab, "rab");
    const Tensor& rab = *a.rab;
    CheckLike(rab, "rab", 4, q);
    Check(rab.size(0) == batch && (rab.size(1) == 1 || rab.size(1) == q.size(1)) &&
              rab.size(2) == a.max_seqlen_k && rab.size(3) == a.max_seqlen_k &&
              (rab.size(3) <= 1 || rab.stride(3) == 1),
          "rab must be (batch, 1 or heads, max_seqlen_k, max_seqlen_k) with last stride "
          "1, got ",
          Shape{rab});
    p.rab = bias(rab);
  }
}

void check_launch(int code, const char* what, const Tensor& q) {
  if (code == cudaSuccess) return;
  if (code == cudaErrorNotSupported) {
    // The features that can be named were checked before; what is left depends on the GPU.
    Check(k86Or89.enabled, what,
          " needs a kernel for GPUs with 99 KB of shared "
          "memory per block, which is not in this build (HSTU_DISABLE_86OR89)");
    Fail(what, " for q ", Shape{q}, " is not in this build; `python -m hstu_attn` lists what is");
  }
  accel::CheckLaunch(code, what, HSTU_ATTN_ARCHS);
}

Tensor zeros_like_rows(const Tensor& t) { return torch::stable::new_zeros(t, t.sizes()); }

// ---------------------------------------------------------------------------
// Forward
// ---------------------------------------------------------------------------

struct Paged {
  const MaybeTensor& kv_cache;        // (pages, 2, page_size, heads_k, D)
  const MaybeTensor& page_offsets;    // (B + 1) int32
  const MaybeTensor& page_ids;        // (>= page_offsets[B]) int32
  const MaybeTensor& last_page_lens;  // (B) int32; says nothing that cu_seqlens_k does not
};

void fill_paged(hstu::FwdParams& p, const Tensor& q, const Tensor& k, const Paged& a) {
  if (!a.kv_cache) return;
  const Tensor& cache = *a.kv_cache;
  Check(a.page_offsets && a.page_ids && a.last_page_lens,
        "kv_cache needs page_offsets, page_ids and last_page_lens");
  CheckLike(cache, "kv_cache", 5, q);
  Check(cache.size(1) == 2 && cache.size(3) == k.size(1) && cache.size(4) == q.size(2) &&
            cache.stride(4) == 1 && k.size(0) == q.size(0),
        "kv_cache must be (pages, 2, page_size, heads of k, head dim) with last stride "
        "1, and k and v must have the rows of q");
  for (int d = 0; d < 4; ++d) {
    Check(cache.stride(d) % 8 == 0, "the strides of kv_cache must be multiples of 8");
  }
  Check(reinterpret_cast<uintptr_t>(cache.const_data_ptr()) % 16 == 0,
        "kv_cache must start on a 16-byte boundary");
  CheckInt32(*a.page_offsets, "page_offsets", p.batch + 1, q);
  CheckInt32(*a.page_ids, "page_ids", 0, q);
  CheckInt32(*a.last_page_lens, "last_page_lens", p.batch, q);
  p.kv.data = cache.const_data_ptr();
  p.kv.page_stride = cache.stride(0);
  p.kv.kv_stride = cache.stride(1);
  p.kv.slot_stride = cache.stride(2);
  p.kv.head_stride = cache.stride(3);
  p.kv.page_size = ToInt32(cache.size(2), "page_size");
  p.kv.page_offsets = Int32OrNull(a.page_offsets);
  p.kv.page_ids = Int32OrNull(a.page_ids);
}

Tensor forward(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Common& a,
               const Paged& paged) {
  hstu::FwdParams p;
  fill_problem(p, q_in, k_in, v_in, a);
  fill_paged(p, q_in, k_in, paged);
  if (p.batch == 0 || p.total_q == 0 || p.total_k == 0) return zeros_like_rows(q_in);

  const torch::stable::accelerator::DeviceGuard guard(q_in.get_device_index());
  const Tensor q = Readable(q_in), k = Readable(k_in), v = Readable(v_in);
  Tensor out = torch::stable::new_empty(q, q.sizes());
  p.q = rows(q);
  p.k = rows(k);
  p.v = rows(v);
  p.o = rows(out);
  const Tensor workspace = Scratch(q, hstu::fwd_workspace_bytes(p));
  const int code = hstu::fwd(p, workspace.mutable_data_ptr(), CurrentStream(q.get_device_index()));
  check_launch(code, "the forward", q);
  return out;
}

Tensor varlen_fwd(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_seqlens_q,
                  const Tensor& cu_seqlens_k, int64_t max_seqlen_q, int64_t max_seqlen_k,
                  int64_t scaling_seqlen, MaybeTensor num_contexts, MaybeTensor num_targets,
                  int64_t target_group_size, int64_t window_left, int64_t window_right,
                  double alpha, MaybeTensor rab, bool /*has_drab*/, MaybeTensor func,
                  bool /*deterministic*/, MaybeTensor kv_cache, MaybeTensor page_offsets,
                  MaybeTensor page_ids, MaybeTensor last_page_lens) {
  return forward(
      q, k, v,
      {cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scaling_seqlen, num_contexts,
       num_targets, target_group_size, window_left, window_right, alpha, rab, func},
      {kv_cache, page_offsets, page_ids, last_page_lens});
}

Tensor qkvpacked_fwd(const Tensor& qkv, const Tensor& cu_seqlens_q, const Tensor& cu_seqlens_k,
                     int64_t max_seqlen_q, int64_t max_seqlen_k, int64_t scaling_seqlen,
                     MaybeTensor num_contexts, MaybeTensor num_targets, int64_t target_group_size,
                     int64_t window_left, int64_t window_right, double alpha, MaybeTensor rab,
                     bool /*has_drab*/, MaybeTensor func, bool /*deterministic*/) {
  const auto [q, k, v] = Unpacked(qkv, "qkv");
  const MaybeTensor none;
  return forward(
      q, k, v,
      {cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scaling_seqlen, num_contexts,
       num_targets, target_group_size, window_left, window_right, alpha, rab, func},
      {none, none, none, none});
}

// ---------------------------------------------------------------------------
// Backward
// ---------------------------------------------------------------------------

// Fills dq, dk, dv (contiguous in their last dimension) and returns the gradient of rab, or an
// empty tensor when it is not wanted.
Tensor backward(const Tensor& dout_in, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                const Common& a, bool has_drab, bool deterministic, Tensor dq, Tensor dk,
                Tensor dv) {
  Require(kBackward, "the backward");
  if (deterministic) Require(kDeterministic, "deterministic=True");
  hstu::BwdParams p;
  fill_problem(p, q_in, k_in, v_in, a);
  CheckLike(dout_in, "dout", 3, q_in);
  Check(dout_in.size(0) == q_in.size(0) && dout_in.size(1) == q_in.size(1) &&
            dout_in.size(2) == q_in.size(2),
        "dout must have the shape of q, got ", Shape{dout_in});
  Check(!has_drab || a.rab, "has_drab needs rab");
  if (has_drab) Require(kDrab, "the gradient of rab");

  if (p.batch == 0 || p.total_q == 0 || p.total_k == 0) {
    for (Tensor* t : {&dq, &dk, &dv}) torch::stable::zero_(*t);
    return has_drab ? torch::stable::new_zeros(*a.rab, a.rab->sizes())
                    : torch::stable::new_empty(q_in, {0});
  }

  const torch::stable::accelerator::DeviceGuard guard(q_in.get_device_index());
  const Tensor q = Readable(q_in), k = Readable(k_in), v = Readable(v_in);
  const Tensor dout = Readable(dout_in);
  p.q = rows(q);
  p.k = rows(k);
  p.v = rows(v);
  p.d_o = rows(dout);
  p.dq = rows(dq);
  p.dk = rows(dk);
  p.dv = rows(dv);
  p.deterministic = deterministic;
  Tensor drab = torch::stable::new_empty(q, {0});
  if (has_drab) {
    drab = torch::stable::new_empty(*a.rab, {p.batch, p.heads, a.max_seqlen_k, a.max_seqlen_k});
    p.drab = {drab.mutable_data_ptr(), drab.stride(0), drab.stride(1), drab.stride(2)};
  }
  const Tensor workspace = Scratch(q, hstu::bwd_workspace_bytes(p));
  const int code = hstu::bwd(p, workspace.mutable_data_ptr(), CurrentStream(q.get_device_index()));
  check_launch(code, "the backward", q);
  if (has_drab && a.rab->size(1) == 1 && p.heads > 1) {
    const int64_t heads_dim = 1;
    drab = torch::stable::sum(drab, torch::headeronly::IntHeaderOnlyArrayRef(&heads_dim, 1), true);
  }
  return drab;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> varlen_bwd(
    const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
    const Tensor& cu_seqlens_q, const Tensor& cu_seqlens_k, int64_t max_seqlen_q,
    int64_t max_seqlen_k, int64_t scaling_seqlen, MaybeTensor num_contexts, MaybeTensor num_targets,
    int64_t target_group_size, int64_t window_left, int64_t window_right, double alpha,
    MaybeTensor rab, bool has_drab, MaybeTensor func, bool deterministic) {
  const Tensor dq = torch::stable::new_empty(q, q.sizes());
  const Tensor dk = torch::stable::new_empty(k, k.sizes());
  const Tensor dv = torch::stable::new_empty(v, v.sizes());
  const Tensor drab = backward(
      dout, q, k, v,
      {cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scaling_seqlen, num_contexts,
       num_targets, target_group_size, window_left, window_right, alpha, rab, func},
      has_drab, deterministic, dq, dk, dv);
  return {dq, dk, dv, drab};
}

std::tuple<Tensor, Tensor> qkvpacked_bwd(
    const Tensor& dout, const Tensor& qkv, const Tensor& cu_seqlens_q, const Tensor& cu_seqlens_k,
    int64_t max_seqlen_q, int64_t max_seqlen_k, int64_t scaling_seqlen, MaybeTensor num_contexts,
    MaybeTensor num_targets, int64_t target_group_size, int64_t window_left, int64_t window_right,
    double alpha, MaybeTensor rab, bool has_drab, MaybeTensor func, bool deterministic) {
  const auto [q, k, v] = Unpacked(qkv, "qkv");
  const Tensor dqkv = torch::stable::new_empty(qkv, qkv.sizes());
  const auto [dq, dk, dv] = Unpacked(dqkv, "qkv");
  const Tensor drab = backward(
      dout, q, k, v,
      {cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scaling_seqlen, num_contexts,
       num_targets, target_group_size, window_left, window_right, alpha, rab, func},
      has_drab, deterministic, dq, dk, dv);
  return {dqkv, drab};
}

// ---------------------------------------------------------------------------
// The mask of mask.h, seen from Python: tests hold it against the reference
// ---------------------------------------------------------------------------

// (k_len, 4) int32 on the CPU: begin, hist, group, end of every absolute row.
Tensor mask_rows(int64_t k_len, int64_t window_left, int64_t window_right, int64_t contexts,
                 int64_t targets, int64_t target_group_size) {
  Check(k_len >= 0 && targets >= 0 && targets <= k_len && contexts >= 0 && target_group_size >= 1,
        "mask_rows needs k_len >= targets >= 0, contexts >= 0, target_group_size >= 1");
  constexpr int32_t kUnbounded = std::numeric_limits<int32_t>::max();
  const int32_t left = window_side(window_left), right = window_side(window_right);
  const hstu::SeqMask mask{ToInt32(k_len, "k_len"),
                           left < 0 ? kUnbounded : left,
                           right < 0 ? kUnbounded : right,
                           ToInt32(contexts, "contexts"),
                           ToInt32(k_len - targets, "history"),
                           ToInt32(target_group_size, "target_group_size")};
  Tensor spans = torch::stable::empty({k_len, 4}, ScalarType::Int);
  auto* out = static_cast<int32_t*>(spans.mutable_data_ptr());
  for (int32_t i = 0; i < mask.k_len; ++i, out += 4) {
    const hstu::RowSpan span = mask.row(i);
    out[0] = span.begin, out[1] = span.hist, out[2] = span.group, out[3] = span.end;
  }
  return spans;
}

// The part of a schema that every op has.
std::string schema(const char* name, const char* tensors, const char* more, const char* returns) {
  return std::string(name) + "(" + tensors +
         ", Tensor cu_seqlens_q, Tensor cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k, "
         "SymInt scaling_seqlen, Tensor? num_contexts, Tensor? num_targets, int target_group_size, "
         "int window_left, int window_right, float alpha, Tensor? rab, bool has_drab, "
         "Tensor? func, bool deterministic" +
         more + ") -> " + returns;
}

}  // namespace
}  // namespace accel

STABLE_TORCH_LIBRARY(hstu_attn, m) {
  m.def(accel::schema(
            "varlen_fwd", "Tensor q, Tensor k, Tensor v",
            ", Tensor? kv_cache, Tensor? page_offsets, Tensor? page_ids, Tensor? last_page_lens",
            "Tensor")
            .c_str());
  m.def(accel::schema("varlen_bwd", "Tensor dout, Tensor q, Tensor k, Tensor v", "",
                      "(Tensor dq, Tensor dk, Tensor dv, Tensor drab)")
            .c_str());
  m.def(accel::schema("qkvpacked_fwd", "Tensor qkv", "", "Tensor").c_str());
  m.def(accel::schema("qkvpacked_bwd", "Tensor dout, Tensor qkv", "", "(Tensor dqkv, Tensor drab)")
            .c_str());
  m.def("build_info() -> str");
  m.def(
      "mask_rows(int k_len, int window_left, int window_right, int contexts, int targets, "
      "int target_group_size) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(hstu_attn, CUDA, m) {
  m.impl("varlen_fwd", TORCH_BOX(&accel::varlen_fwd));
  m.impl("varlen_bwd", TORCH_BOX(&accel::varlen_bwd));
  m.impl("qkvpacked_fwd", TORCH_BOX(&accel::qkvpacked_fwd));
  m.impl("qkvpacked_bwd", TORCH_BOX(&accel::qkvpacked_bwd));
}

STABLE_TORCH_LIBRARY_IMPL(hstu_attn, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&accel::build_info));
  m.impl("mask_rows", TORCH_BOX(&accel::mask_rows));
}
