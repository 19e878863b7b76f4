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

#include "csrc/common/stable_torch.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask.h"

#ifndef HSTU_ATTN_VERSION
#define HSTU_ATTN_VERSION "0+unknown"
#endif
#ifndef HSTU_ATTN_ARCHS
#define HSTU_ATTN_ARCHS "unknown"
#endif

namespace {

using stable_torch::check;
using stable_torch::fail;
using stable_torch::ScalarType;
using stable_torch::Tensor;
using MaybeTensor = std::optional<Tensor>;

// ---------------------------------------------------------------------------
// What is in this build
// ---------------------------------------------------------------------------

struct Feature {
  const char* name;  // HSTU_DISABLE_<name> leaves it out
  bool enabled;
};

constexpr Feature kBackward{"BACKWARD", hstu::kWithBackward};
constexpr Feature kDeterministic{"DETERMINISTIC", hstu::kWithDeterministic};
constexpr Feature kLocal{"LOCAL", hstu::kWithLocal};
constexpr Feature kCausal{"CAUSAL", hstu::kWithCausal};
constexpr Feature kContext{"CONTEXT", hstu::kWithContext};
constexpr Feature kTarget{"TARGET", hstu::kWithTarget};
constexpr Feature kArbitrary{"ARBITRARY", hstu::kWithArbitrary};
constexpr Feature kRab{"RAB", hstu::kWithRab};
constexpr Feature kDrab{"DRAB", hstu::kWithDrab};
constexpr Feature kBf16{"BF16", hstu::kWithBf16};
constexpr Feature kFp16{"FP16", hstu::kWithFp16};
constexpr Feature kHdim32{"HDIM32", hstu::kWithHeadDim32};
constexpr Feature kHdim64{"HDIM64", hstu::kWithHeadDim64};
constexpr Feature kHdim128{"HDIM128", hstu::kWithHeadDim128};
constexpr Feature kHdim256{"HDIM256", hstu::kWithHeadDim256};
constexpr Feature k86Or89{"86OR89", hstu::kWith86Or89};
constexpr Feature kFeatures[] = {kBackward,  kDeterministic, kLocal,   kCausal, kContext, kTarget,
                                 kArbitrary, kRab,           kDrab,    kBf16,   kFp16,    kHdim32,
                                 kHdim64,    kHdim128,       kHdim256, k86Or89};

void require(const Feature& feature, const char* what) {
  check(feature.enabled, "hstu_attn: ", what, " is not in this build (HSTU_DISABLE_", feature.name,
        ")");
}

// {"version": "0.3.0", "archs": "sm_80,sm_90,compute_80", "cuda": "13.0", "enabled": ["BACKWARD",
// ...], "disabled": [...]}
std::string build_info() {
  std::ostringstream json;
  json << "{\"version\": \"" << HSTU_ATTN_VERSION << "\", \"archs\": \"" << HSTU_ATTN_ARCHS
       << "\", \"cuda\": \"" << CUDART_VERSION / 1000 << "." << CUDART_VERSION % 1000 / 10 << "\"";
  for (const bool enabled : {true, false}) {
    json << (enabled ? ", \"enabled\": [" : ", \"disabled\": [");
    const char* separator = "";
    for (const Feature& feature : kFeatures) {
      if (feature.enabled != enabled) continue;
      json << separator << "\"" << feature.name << "\"";
      separator = ", ";
    }
    json << "]";
  }
  json << "}";
  return json.str();
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

int32_t to_int32(int64_t value, const char* name) {
  check(
      value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max(),
      "hstu_attn: ", name, "=", value, " does not fit into 32 bits");
  return static_cast<int32_t>(value);
}

// A window side; anything beyond int32 sees as far as no bound at all.
int32_t window_side(int64_t value) {
  return value < 0 || value > std::numeric_limits<int32_t>::max() ? -1
                                                                  : static_cast<int32_t>(value);
}

void check_int32(const Tensor& t, const char* name, int64_t at_least, const Tensor& beside) {
  check(t.scalar_type() == ScalarType::Int && t.is_contiguous() && t.dim() == 1 &&
            t.numel() >= at_least && t.is_cuda() &&
            t.get_device_index() == beside.get_device_index(),
        "hstu_attn: ", name, " must be a contiguous int32 tensor of at least ", at_least,
        " elements on the device of q");
}

void check_like_q(const Tensor& t, const char* name, int64_t dim, const Tensor& q) {
  check(t.scalar_type() == q.scalar_type() && t.dim() == dim && t.is_cuda() &&
            t.get_device_index() == q.get_device_index(),
        "hstu_attn: ", name, " must have ", dim, " dimensions and the dtype and device of q");
}

// `t` (rows, heads, head_dim) itself when the kernels can read it (last stride 1, rows on 16-byte
// boundaries), else a contiguous copy.
Tensor readable(const Tensor& t) {
  const auto bytes = static_cast<int64_t>(t.element_size());
  const bool aligned = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 &&
                       (t.size(0) <= 1 || t.stride(0) * bytes % 16 == 0) &&
                       (t.size(1) <= 1 || t.stride(1) * bytes % 16 == 0);
  if (aligned && t.stride(2) == 1) return t;
  Tensor copy = torch::stable::new_empty(t, t.sizes());
  torch::stable::copy_(copy, t);
  return copy;
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
  check(error == std::errc() && at == end && value >= kLeast && value <= kMost,
        "hstu_attn: HSTU_SMEM_KB must be a number of kilobytes from 100 to 1024, got '", text, "'");
  return value;
}

// Fills everything but q, k, v; checks what the kernels index by.
void fill_problem(hstu::Problem& p, const Tensor& q, const Tensor& k, const Tensor& v,
                  const Common& a) {
  check(q.is_cuda() && q.dim() == 3, "hstu_attn: q must be a CUDA tensor (total_q, heads, D)");
  check_like_q(k, "k", 3, q);
  check_like_q(v, "v", 3, q);
  check(k.size(0) == v.size(0) && k.size(1) == v.size(1) && k.size(2) == q.size(2) &&
            v.size(2) == q.size(2) && k.size(1) > 0 && q.size(1) % k.size(1) == 0,
        "hstu_attn: the shapes of q ", stable_torch::shape_text(q), ", k ",
        stable_torch::shape_text(k), " and v ", stable_torch::shape_text(v), " do not agree");
  check(a.cu_seqlens_q.numel() == a.cu_seqlens_k.numel() && a.cu_seqlens_q.numel() >= 1,
        "hstu_attn: cu_seqlens_q and cu_seqlens_k must both have batch + 1 elements");
  check_int32(a.cu_seqlens_q, "cu_seqlens_q", 1, q);
  check_int32(a.cu_seqlens_k, "cu_seqlens_k", 1, q);
  check(a.max_seqlen_q >= 0 && a.max_seqlen_k >= 0 && a.scaling_seqlen >= 1,
        "hstu_attn: max_seqlen_q and max_seqlen_k must be >= 0 and scaling_seqlen >= 1");

  switch (q.scalar_type()) {
    case ScalarType::BFloat16:
      require(kBf16, "bfloat16");
      p.dtype = hstu::DType::kBf16;
      break;
    case ScalarType::Half:
      require(kFp16, "float16");
      p.dtype = hstu::DType::kFp16;
      break;
    default:
      fail("hstu_attn: q must be bfloat16 or float16 on a GPU");
  }
  switch (q.size(2)) {
    case 32:
      require(kHdim32, "head dim 32");
      break;
    case 64:
      require(kHdim64, "head dim 64");
      break;
    case 128:
      require(kHdim128, "head dim 128");
      break;
    case 256:
      require(kHdim256, "head dim 256");
      break;
    default:
      fail("hstu_attn: head dim ", q.size(2), ": allowed are 32, 64, 128, 256");
  }
  const int64_t batch = a.cu_seqlens_q.numel() - 1;
  p.head_dim = static_cast<int32_t>(q.size(2));
  p.batch = to_int32(batch, "batch");
  p.heads = to_int32(q.size(1), "heads");
  p.heads_k = to_int32(k.size(1), "heads of k");
  p.total_q = to_int32(q.size(0), "total_q");
  p.total_k = to_int32(k.size(0), "total_k");
  p.max_seqlen_q = to_int32(a.max_seqlen_q, "max_seqlen_q");
  p.max_seqlen_k = to_int32(a.max_seqlen_k, "max_seqlen_k");
  p.cu_seqlens_q = static_cast<const int32_t*>(a.cu_seqlens_q.const_data_ptr());
  p.cu_seqlens_k = static_cast<const int32_t*>(a.cu_seqlens_k.const_data_ptr());
  p.alpha = static_cast<float>(a.alpha);
  p.inv_n = 1.0f / static_cast<float>(a.scaling_seqlen);
  p.smem_kb = wanted_smem_kb();

  hstu::MaskParams& mask = p.mask;
  mask.window_left = window_side(a.window_left);
  mask.window_right = window_side(a.window_right);
  if (mask.window_left < 0 && mask.window_right == 0) {
    require(kCausal, "the causal mask");
  } else if (mask.window_left >= 0 || mask.window_right >= 0) {
    require(kLocal, "the local mask");
  }
  if (a.num_contexts) {
    require(kContext, "num_contexts");
    check_int32(*a.num_contexts, "num_contexts", batch, q);
    mask.num_contexts = stable_torch::int32_or_null(a.num_contexts);
  }
  if (a.num_targets) {
    require(kTarget, "num_targets");
    check_int32(*a.num_targets, "num_targets", batch, q);
    check(a.target_group_size >= 1, "hstu_attn: target_group_size must be >= 1");
    mask.num_targets = stable_torch::int32_or_null(a.num_targets);
    mask.target_group_size = to_int32(a.target_group_size, "target_group_size");
  }
  if (a.func) {
    require(kArbitrary, "func");
    const Tensor& func = *a.func;
    check(func.scalar_type() == ScalarType::Int && func.dim() == 3 && func.size(0) == 1 &&
              func.size(1) % 2 == 1 && func.size(2) >= q.size(0) && func.stride(2) == 1 &&
              func.is_cuda() && func.get_device_index() == q.get_device_index(),
          "hstu_attn: func must be an int32 tensor (1, odd n_func, >= total_q), last stride 1, on "
          "the device of q");
    mask.func = static_cast<const int32_t*>(func.const_data_ptr());
    mask.n_func = to_int32(func.size(1), "n_func");
    mask.func_stride = func.stride(1);
  }
  if (a.rab) {
    require(kRab, "rab");
    const Tensor& rab = *a.rab;
    check_like_q(rab, "rab", 4, q);
    check(rab.size(0) == batch && (rab.size(1) == 1 || rab.size(1) == q.size(1)) &&
              rab.size(2) == a.max_seqlen_k && rab.size(3) == a.max_seqlen_k &&
              (rab.size(3) <= 1 || rab.stride(3) == 1),
          "hstu_attn: rab must be (batch, 1 or heads, max_seqlen_k, max_seqlen_k) with last stride "
          "1, got ",
          stable_torch::shape_text(rab));
    p.rab = bias(rab);
  }
}

void check_launch(int code, const char* what, const Tensor& q) {
  if (code == cudaSuccess) return;
  if (code == cudaErrorNotSupported) {
    // The features that can be named were checked before; what is left depends on the GPU.
    check(k86Or89.enabled, "hstu_attn: ", what,
          " needs a kernel for GPUs with 99 KB of shared "
          "memory per block, which is not in this build (HSTU_DISABLE_86OR89)");
    fail("hstu_attn: ", what, " for q ", stable_torch::shape_text(q),
         " is not in this build; `python -m hstu_attn` lists what is");
  }
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction ||
      code == cudaErrorUnsupportedPtxVersion) {
    fail("hstu_attn: no machine code in this build (", HSTU_ATTN_ARCHS, ") serves this GPU (",
         stable_torch::cuda_error_text(code), "); see `python -m hstu_attn`");
  }
  fail("hstu_attn: ", what, " failed with ", stable_torch::cuda_error_text(code));
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
  check(a.page_offsets && a.page_ids && a.last_page_lens,
        "hstu_attn: kv_cache needs page_offsets, page_ids and last_page_lens");
  check_like_q(cache, "kv_cache", 5, q);
  check(cache.size(1) == 2 && cache.size(3) == k.size(1) && cache.size(4) == q.size(2) &&
            cache.stride(4) == 1 && k.size(0) == q.size(0),
        "hstu_attn: kv_cache must be (pages, 2, page_size, heads of k, head dim) with last stride "
        "1, and k and v must have the rows of q");
  for (int d = 0; d < 4; ++d) {
    check(cache.stride(d) % 8 == 0, "hstu_attn: the strides of kv_cache must be multiples of 8");
  }
  check(reinterpret_cast<uintptr_t>(cache.const_data_ptr()) % 16 == 0,
        "hstu_attn: kv_cache must start on a 16-byte boundary");
  check_int32(*a.page_offsets, "page_offsets", p.batch + 1, q);
  check_int32(*a.page_ids, "page_ids", 0, q);
  check_int32(*a.last_page_lens, "last_page_lens", p.batch, q);
  p.kv.data = cache.const_data_ptr();
  p.kv.page_stride = cache.stride(0);
  p.kv.kv_stride = cache.stride(1);
  p.kv.slot_stride = cache.stride(2);
  p.kv.head_stride = cache.stride(3);
  p.kv.page_size = to_int32(cache.size(2), "page_size");
  p.kv.page_offsets = stable_torch::int32_or_null(a.page_offsets);
  p.kv.page_ids = stable_torch::int32_or_null(a.page_ids);
}

Tensor forward(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Common& a,
               const Paged& paged) {
  hstu::FwdParams p;
  fill_problem(p, q_in, k_in, v_in, a);
  fill_paged(p, q_in, k_in, paged);
  if (p.batch == 0 || p.total_q == 0 || p.total_k == 0) return zeros_like_rows(q_in);

  const torch::stable::accelerator::DeviceGuard guard(q_in.get_device_index());
  const Tensor q = readable(q_in), k = readable(k_in), v = readable(v_in);
  Tensor out = torch::stable::new_empty(q, q.sizes());
  p.q = rows(q);
  p.k = rows(k);
  p.v = rows(v);
  p.o = rows(out);
  const Tensor workspace = stable_torch::scratch(q, hstu::fwd_workspace_bytes(p));
  const int code = hstu::fwd(p, workspace.mutable_data_ptr(),
                             stable_torch::current_stream(q.get_device_index()));
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

// The three tensors inside a packed one, (total, 3, heads, D).
std::tuple<Tensor, Tensor, Tensor> unpack(const Tensor& packed) {
  check(packed.dim() == 4 && packed.size(1) == 3,
        "hstu_attn: qkv must be (total, 3, heads, head dim), got ",
        stable_torch::shape_text(packed));
  return {torch::stable::select(packed, 1, 0), torch::stable::select(packed, 1, 1),
          torch::stable::select(packed, 1, 2)};
}

Tensor qkvpacked_fwd(const Tensor& qkv, const Tensor& cu_seqlens_q, const Tensor& cu_seqlens_k,
                     int64_t max_seqlen_q, int64_t max_seqlen_k, int64_t scaling_seqlen,
                     MaybeTensor num_contexts, MaybeTensor num_targets, int64_t target_group_size,
                     int64_t window_left, int64_t window_right, double alpha, MaybeTensor rab,
                     bool /*has_drab*/, MaybeTensor func, bool /*deterministic*/) {
  const auto [q, k, v] = unpack(qkv);
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
  require(kBackward, "the backward");
  if (deterministic) require(kDeterministic, "deterministic=True");
  hstu::BwdParams p;
  fill_problem(p, q_in, k_in, v_in, a);
  check_like_q(dout_in, "dout", 3, q_in);
  check(dout_in.size(0) == q_in.size(0) && dout_in.size(1) == q_in.size(1) &&
            dout_in.size(2) == q_in.size(2),
        "hstu_attn: dout must have the shape of q, got ", stable_torch::shape_text(dout_in));
  check(!has_drab || a.rab, "hstu_attn: has_drab needs rab");
  if (has_drab) require(kDrab, "the gradient of rab");

  if (p.batch == 0 || p.total_q == 0 || p.total_k == 0) {
    for (Tensor* t : {&dq, &dk, &dv}) torch::stable::zero_(*t);
    return has_drab ? torch::stable::new_zeros(*a.rab, a.rab->sizes())
                    : torch::stable::new_empty(q_in, {0});
  }

  const torch::stable::accelerator::DeviceGuard guard(q_in.get_device_index());
  const Tensor q = readable(q_in), k = readable(k_in), v = readable(v_in);
  const Tensor dout = readable(dout_in);
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
  const Tensor workspace = stable_torch::scratch(q, hstu::bwd_workspace_bytes(p));
  const int code = hstu::bwd(p, workspace.mutable_data_ptr(),
                             stable_torch::current_stream(q.get_device_index()));
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
  const auto [q, k, v] = unpack(qkv);
  const Tensor dqkv = torch::stable::new_empty(qkv, qkv.sizes());
  const auto [dq, dk, dv] = unpack(dqkv);
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
  check(k_len >= 0 && targets >= 0 && targets <= k_len && contexts >= 0 && target_group_size >= 1,
        "hstu_attn: mask_rows needs k_len >= targets >= 0, contexts >= 0, target_group_size >= 1");
  constexpr int32_t kUnbounded = std::numeric_limits<int32_t>::max();
  const int32_t left = window_side(window_left), right = window_side(window_right);
  const hstu::SeqMask mask{to_int32(k_len, "k_len"),
                           left < 0 ? kUnbounded : left,
                           right < 0 ? kUnbounded : right,
                           to_int32(contexts, "contexts"),
                           to_int32(k_len - targets, "history"),
                           to_int32(target_group_size, "target_group_size")};
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

STABLE_TORCH_LIBRARY(hstu_attn, m) {
  m.def(schema("varlen_fwd", "Tensor q, Tensor k, Tensor v",
               ", Tensor? kv_cache, Tensor? page_offsets, Tensor? page_ids, Tensor? last_page_lens",
               "Tensor")
            .c_str());
  m.def(schema("varlen_bwd", "Tensor dout, Tensor q, Tensor k, Tensor v", "",
               "(Tensor dq, Tensor dk, Tensor dv, Tensor drab)")
            .c_str());
  m.def(schema("qkvpacked_fwd", "Tensor qkv", "", "Tensor").c_str());
  m.def(
      schema("qkvpacked_bwd", "Tensor dout, Tensor qkv", "", "(Tensor dqkv, Tensor drab)").c_str());
  m.def("build_info() -> str");
  m.def(
      "mask_rows(int k_len, int window_left, int window_right, int contexts, int targets, "
      "int target_group_size) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(hstu_attn, CUDA, m) {
  m.impl("varlen_fwd", TORCH_BOX(&varlen_fwd));
  m.impl("varlen_bwd", TORCH_BOX(&varlen_bwd));
  m.impl("qkvpacked_fwd", TORCH_BOX(&qkvpacked_fwd));
  m.impl("qkvpacked_bwd", TORCH_BOX(&qkvpacked_bwd));
}

STABLE_TORCH_LIBRARY_IMPL(hstu_attn, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
  m.impl("mask_rows", TORCH_BOX(&mask_rows));
}
