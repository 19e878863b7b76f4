// File: ops.cc
//
// The torch ops of Mustafar: schemas, and implementations that turn tensors into the structs of
// mustafar.h. Whatever can be said of a call without the values of its tensors is checked here,
// before anything is allocated or launched. On the CPU the decode is C++, the rest is Python.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>

#include "csrc/common/build_info.h"
#include "csrc/common/errors.h"
#include "csrc/common/op_arguments.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"
#include "csrc/mustafar/decode_host.h"
#include "csrc/mustafar/mustafar.h"

ACCEL_PACKAGE("mustafar");

namespace accel::mustafar {
namespace {

// ---- Arguments, in the order of the schemas

template <bool kWritten>
Tensor Get(OpArguments& in, const char* name) {
  return kWritten ? in.GetWritten(name) : in.GetTensor(name);
}

// What a cache is made of: see Cache in mustafar.h.
template <bool kWritten>
struct CacheTensors {
  OpArguments& in;
  Tensor k_bitmaps = Get<kWritten>(in, "k_bitmaps");  // (pages, heads, 64, D / 32) int32
  Tensor k_values = Get<kWritten>(in, "k_values");    // (pages, heads, 64, kept)
  Tensor v_bitmaps = Get<kWritten>(in, "v_bitmaps");
  Tensor v_values = Get<kWritten>(in, "v_values");
  Tensor k_window = Get<kWritten>(in, "k_window");  // (batch, heads, window, D)
  Tensor v_window = Get<kWritten>(in, "v_window");
  Tensor state = Get<kWritten>(in, "state");                   // (batch, 4) int32
  MaybeTensor block_table = in.GetMaybeTensor("block_table");  // (batch, max_blocks) int32
};

struct DecodeArguments {
  OpArguments& in;
  Tensor q = in.GetTensor("q");  // (batch, q_heads, D)
  CacheTensors<false> cache{in};
  double scale = in.GetFloat("scale");
  int64_t splits = in.GetInt("splits");  // 0: as it suits the GPU
};

struct AppendArguments {
  OpArguments& in;
  CacheTensors<true> cache{in};
  Tensor k = in.GetTensor("k");  // (batch, heads, tokens, D)
  Tensor v = in.GetTensor("v");
  int64_t residual = in.GetInt("residual");
  int64_t block = in.GetInt("block");
};

struct PrefillArguments : AppendArguments {
  explicit PrefillArguments(OpArguments& in) : AppendArguments{in} {}
  Tensor starts = in.GetTensor("starts");    // (batch) int32
  Tensor lengths = in.GetTensor("lengths");  // (batch) int32
};

struct CompressArguments {
  OpArguments& in;
  Tensor x = in.GetTensor("x");  // (rows, D)
  int64_t kept = in.GetInt("kept");
};

// ---- Tensors to parameters

void CheckGpuDType(const Tensor& t, const char* name) {
  Check(t.scalar_type() == ScalarType::Half || t.scalar_type() == ScalarType::BFloat16, name,
        " must be float16 or bfloat16 on a GPU");
}

int32_t HeadDim(int64_t head_dim) {
  Check(head_dim == 64 || head_dim == 96 || head_dim == 128, "head dim ", head_dim,
        ": allowed are 64, 96, 128");
  return static_cast<int32_t>(head_dim);
}

Rows RowsOf(const Tensor& bitmaps, const Tensor& values, const char* name, const Tensor& window) {
  const int64_t heads = window.size(1), head_dim = window.size(3);
  CheckTensor(values, name, window.scalar_type(), "(dtype of k_window)", 4, window);
  const int64_t kept = values.size(3);
  Check(values.size(1) == heads && values.size(2) == kBlockTokens && kept >= 1 && kept <= head_dim,
        name, " must be (pages, heads = ", heads, ", 64, 1 to D = ", head_dim, "), got ",
        Shape{values});
  Rows rows;
  rows.values = DataOf<uint16_t>(values);
  rows.kept = static_cast<int32_t>(kept);
  if (kept < head_dim) {
    CheckTensor(bitmaps, "the bitmaps", ScalarType::Int, "int32", 4, window);
    Check(bitmaps.size(0) == values.size(0) && bitmaps.size(1) == heads &&
              bitmaps.size(2) == kBlockTokens && bitmaps.size(3) == head_dim / 32,
          "the bitmaps must be (pages, heads, 64, D / 32) beside ", name, " ", Shape{values},
          ", got ", Shape{bitmaps});
    rows.bitmaps = DataOf<uint32_t>(bitmaps);
  }
  return rows;
}

template <bool kWritten>
Cache CacheOf(const CacheTensors<kWritten>& a) {
  const Tensor& window = a.k_window;
  Check(window.dim() == 4 && window.is_contiguous() && window.size(2) >= kUnitTokens,
        "k_window must be a contiguous tensor (batch, heads, window >= 16, D), got ",
        Shape{window});
  CheckTensor(a.v_window, "v_window", window.scalar_type(), "(dtype of k_window)", 4, window);
  for (int d = 0; d < 4; ++d) {
    Check(a.v_window.size(d) == window.size(d), "v_window must have the shape of k_window ",
          Shape{window}, ", got ", Shape{a.v_window});
  }
  Cache c;
  c.batch = ToInt32(window.size(0), "batch");
  c.heads = ToInt32(window.size(1), "heads");
  c.window = ToInt32(window.size(2), "window");
  c.head_dim = HeadDim(window.size(3));
  c.k = RowsOf(a.k_bitmaps, a.k_values, "k_values", window);
  c.v = RowsOf(a.v_bitmaps, a.v_values, "v_values", window);
  Check(a.k_values.size(0) == a.v_values.size(0), "k_values and v_values must have as many pages");
  c.pages = ToInt32(a.k_values.size(0), "pages");
  c.k_window = DataOf<uint16_t>(window);
  c.v_window = DataOf<uint16_t>(a.v_window);
  CheckTensor(a.state, "state", ScalarType::Int, "int32", 2, window);
  Check(a.state.size(0) == c.batch && a.state.size(1) == 4, "state must be (batch, 4), got ",
        Shape{a.state});
  c.state = DataOf<State>(a.state);
  if (a.block_table) {
    CheckTensor(*a.block_table, "block_table", ScalarType::Int, "int32", 2, window);
    Check(a.block_table->size(0) == c.batch, "block_table must be (batch, blocks), got ",
          Shape{*a.block_table});
    c.block_table = Int32OrNull(a.block_table);
    c.max_blocks = ToInt32(a.block_table->size(1), "blocks");
  } else {
    Check(c.batch == 0 || c.pages % c.batch == 0, "without a block_table the pages, ", c.pages,
          ", must be a multiple of the batch, ", c.batch);
    c.max_blocks = c.batch == 0 ? 0 : c.pages / c.batch;
  }
  return c;
}

DecodeParams DecodeOf(const DecodeArguments& a) {
  DecodeParams p;
  p.cache = CacheOf(a.cache);
  CheckTensor(a.q, "q", a.cache.k_window.scalar_type(), "(dtype of the cache)", 3,
              a.cache.k_window);
  Check(a.q.size(0) == p.cache.batch && a.q.size(2) == p.cache.head_dim && p.cache.heads > 0 &&
            a.q.size(1) > 0 && a.q.size(1) % p.cache.heads == 0,
        "q must be (batch = ", p.cache.batch, ", a multiple of ", p.cache.heads,
        " heads, D = ", p.cache.head_dim, "), got ", Shape{a.q});
  Check(std::isfinite(static_cast<float>(a.scale)), "scale must be a finite float32, got ",
        a.scale);
  Check(a.splits >= 0 && a.splits <= 65535, "splits must be from 0 to 65535, got ", a.splits);
  p.q = a.q.const_data_ptr();
  p.q_heads = ToInt32(a.q.size(1), "query heads");
  p.scale = static_cast<float>(a.scale);
  p.splits = static_cast<int32_t>(a.splits);
  return p;
}

Tensor DecodeCuda(const DecodeArguments& a) {
  CheckGpuDType(a.q, "q");
  DecodeParams p = DecodeOf(a);
  const torch::stable::accelerator::DeviceGuard guard(a.q.get_device_index());
  Tensor out = EmptyLike(a.q);
  if (out.numel() == 0) return out;
  p.dtype = a.q.scalar_type() == ScalarType::BFloat16 ? DType::kBf16 : DType::kFp16;
  p.out = out.mutable_data_ptr();
  if (p.splits == 0) CheckLaunch(PlanDecode(&p), "the plan of a decode", MUSTAFAR_ARCHS);
  const Scratch scratch(a.q, DecodeScratchBytes(p));
  CheckLaunch(Decode(p, scratch.data(), CurrentStream(a.q.get_device_index())), "the decode",
              MUSTAFAR_ARCHS);
  return out;
}

Tensor DecodeCpu(const DecodeArguments& a) {
  DecodeParams p = DecodeOf(a);
  Tensor out = torch::stable::new_empty(a.q, a.q.sizes());
  p.out = out.mutable_data_ptr();
  switch (a.q.scalar_type()) {
    case ScalarType::Float:
      HostDecode<HostFloat32>(p);
      break;
    case ScalarType::Half:
      HostDecode<HostFloat16>(p);
      break;
    case ScalarType::BFloat16:
      HostDecode<HostBFloat16>(p);
      break;
    default:
      Fail("q must be float32, float16 or bfloat16");
  }
  return out;
}

Dense DenseOf(const Tensor& t, const char* name, const Cache& c, const Tensor& window) {
  Check(t.scalar_type() == window.scalar_type() && t.dim() == 4 && SameDevice(t, window) &&
            t.size(0) == c.batch && t.size(1) == c.heads && t.size(3) == c.head_dim &&
            t.stride(3) == 1,
        name, " must be (batch = ", c.batch, ", heads = ", c.heads, ", tokens, D = ", c.head_dim,
        ") with last stride 1, dtype and device of the cache, got ", Shape{t});
  for (int d = 0; d < 3; ++d) {
    Check(t.size(d) == 1 || t.stride(d) % 4 == 0, "the strides of ", name,
          " must be multiples of 4");
  }
  Check(reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 8 == 0, name,
        " must start on an 8-byte boundary");
  return {DataOf<uint16_t>(t), t.stride(0), t.stride(1), t.stride(2)};
}

StoreParams StoreOf(const AppendArguments& a) {
  CheckGpuDType(a.k, "k");
  StoreParams p;
  p.cache = CacheOf(a.cache);
  p.k = DenseOf(a.k, "k", p.cache, a.cache.k_window);
  p.v = DenseOf(a.v, "v", p.cache, a.cache.k_window);
  Check(a.k.size(2) == a.v.size(2), "k and v must have as many tokens, got ", a.k.size(2), " and ",
        a.v.size(2));
  Check(a.residual >= 0 && a.block >= 1 && a.residual + a.block <= p.cache.window,
        "residual >= 0 and block >= 1 must fit into the window of ", p.cache.window, ", got ",
        a.residual, " and ", a.block);
  p.residual = static_cast<int32_t>(a.residual);
  p.block = static_cast<int32_t>(a.block);
  p.tokens = ToInt32(a.k.size(2), "tokens");
  return p;
}

void AppendCuda(const AppendArguments& a) {
  const StoreParams p = StoreOf(a);
  Check(p.tokens == 1, "k must be one token, got ", p.tokens);
  if (a.k.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(a.k.get_device_index());
  CheckLaunch(Append(p, CurrentStream(a.k.get_device_index())), "the append", MUSTAFAR_ARCHS);
}

void PrefillCuda(const PrefillArguments& a) {
  StoreParams p = StoreOf(a);
  CheckInt32(a.starts, "starts", p.cache.batch, a.k);
  CheckInt32(a.lengths, "lengths", p.cache.batch, a.k);
  p.starts = DataOf<int32_t>(a.starts);
  p.lengths = DataOf<int32_t>(a.lengths);
  if (a.k.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(a.k.get_device_index());
  CheckLaunch(Prefill(p, CurrentStream(a.k.get_device_index())), "the prefill", MUSTAFAR_ARCHS);
}

std::tuple<Tensor, Tensor> CompressCuda(const CompressArguments& a) {
  CheckGpuDType(a.x, "x");
  Check(a.x.dim() == 2 && a.x.is_contiguous() &&
            reinterpret_cast<uintptr_t>(a.x.const_data_ptr()) % 8 == 0,
        "x must be a contiguous (rows, D) on an 8-byte boundary, got ", Shape{a.x});
  const int32_t head_dim = HeadDim(a.x.size(1));
  Check(a.kept >= 1 && a.kept <= head_dim, "kept must be from 1 to D = ", head_dim, ", got ",
        a.kept);
  const torch::stable::accelerator::DeviceGuard guard(a.x.get_device_index());
  const std::array<int64_t, 2> bits = {a.x.size(0), head_dim / 32}, kept = {a.x.size(0), a.kept};
  const Tensor bitmaps = EmptyCuda(a.x, bits, aoti_torch_dtype_int32());
  const Tensor values = EmptyLike(a.x, kept);
  if (a.x.size(0) == 0) return {bitmaps, values};
  const Rows out = {DataOf<uint32_t>(bitmaps), DataOf<uint16_t>(values),
                    static_cast<int32_t>(a.kept)};
  CheckLaunch(CompressRows(DataOf<uint16_t>(a.x), out, a.x.size(0), head_dim,
                           CurrentStream(a.x.get_device_index())),
              "the compression", MUSTAFAR_ARCHS);
  return {bitmaps, values};
}

std::string ThisBuild() {
  return BuildInfo(MUSTAFAR_VERSION, MUSTAFAR_ARCHS, CUDART_VERSION, std::array<Feature, 0>());
}

}  // namespace
}  // namespace accel::mustafar

STABLE_TORCH_LIBRARY(mustafar, m) {
  using namespace accel::mustafar;
  using accel::Schema;
  m.def(Schema<DecodeArguments>("decode", "Tensor").c_str());
  m.def(Schema<AppendArguments>("append", "()").c_str());
  m.def(Schema<PrefillArguments>("prefill", "()").c_str());
  m.def(Schema<CompressArguments>("compress_rows", "(Tensor bitmaps, Tensor values)").c_str());
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(mustafar, CUDA, m) {
  using namespace accel::mustafar;
  using accel::Boxed;
  m.impl("decode", &Boxed<DecodeArguments, &DecodeCuda>);
  m.impl("append", &Boxed<AppendArguments, &AppendCuda>);
  m.impl("prefill", &Boxed<PrefillArguments, &PrefillCuda>);
  m.impl("compress_rows", &Boxed<CompressArguments, &CompressCuda>);
}

STABLE_TORCH_LIBRARY_IMPL(mustafar, CPU, m) {
  using namespace accel::mustafar;
  m.impl("decode", &accel::Boxed<DecodeArguments, &DecodeCpu>);
}

STABLE_TORCH_LIBRARY_IMPL(mustafar, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&accel::mustafar::ThisBuild));
}
