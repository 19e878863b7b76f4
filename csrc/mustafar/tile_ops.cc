// File: tile_ops.cc
//
// The torch ops of the layout `tiles`, on a GPU: its compression, and products with what it holds.
// Sizes that depend on values are asked for in Python.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstdint>
#include <tuple>

#include "csrc/common/errors.h"
#include "csrc/common/op_arguments.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"
#include "csrc/mustafar/mustafar.h"

namespace accel::mustafar {
namespace {

struct BitmapArguments {
  OpArguments& in;
  Tensor x = in.GetTensor("x");  // (heads, tokens, D)
  bool keys = in.GetBool("keys");
};

struct PackArguments {
  OpArguments& in;
  Tensor x = in.GetTensor("x");
  Tensor bitmaps = in.GetTensor("bitmaps");  // (heads, tiles) int64
  Tensor offsets = in.GetTensor("offsets");  // (heads, tiles + 1) int32
  Tensor starts = in.GetTensor("starts");    // (heads) int32
  int64_t total = in.GetSymInt("total");     // values in all
  bool keys = in.GetBool("keys");
};

struct ProductArguments {
  OpArguments& in;
  Tensor bitmaps = in.GetTensor("bitmaps");
  Tensor packed = in.GetTensor("packed");  // (values) float16
  Tensor offsets = in.GetTensor("offsets");
  Tensor starts = in.GetTensor("starts");
  Tensor b = in.GetTensor("b");  // (batch, 8, D) or (batch, 8, tokens) float16
  int64_t tokens = in.GetSymInt("tokens");
  int64_t head_dim = in.GetSymInt("head_dim");
  int64_t groups = in.GetInt("groups");
};

TileParams TilesOf(const Tensor& x, bool keys) {
  Check(x.scalar_type() == ScalarType::Half || x.scalar_type() == ScalarType::BFloat16,
        "x must be float16 or bfloat16 on a GPU");
  Check(x.dim() == 3 && x.is_contiguous() && x.size(1) % kTile == 0 &&
            (x.size(2) % kTile == 0 || keys) && x.size(0) <= 65535,
        "x must be a contiguous (heads, tokens, D), tokens a multiple of 64 and, of values, D too; "
        "got ",
        Shape{x});
  TileParams p;
  p.x = DataOf<uint16_t>(x);
  p.heads = ToInt32(x.size(0), "heads");
  p.tokens = ToInt32(x.size(1), "tokens");
  p.head_dim = ToInt32(x.size(2), "head dim");
  p.keys = keys;
  return p;
}

std::tuple<Tensor, Tensor> BitmapsCuda(const BitmapArguments& a) {
  TileParams p = TilesOf(a.x, a.keys);
  const torch::stable::accelerator::DeviceGuard guard(a.x.get_device_index());
  const std::array<int64_t, 2> tiles = {p.heads,
                                        static_cast<int64_t>(p.tokens / kTile) * p.head_dim};
  const Tensor bitmaps = EmptyCuda(a.x, tiles, aoti_torch_dtype_int64());
  const Tensor counts = EmptyCuda(a.x, tiles, aoti_torch_dtype_int32());
  if (bitmaps.numel() == 0) return {bitmaps, counts};
  p.bitmaps = DataOf<int64_t>(bitmaps);
  p.counts = DataOf<int32_t>(counts);
  CheckLaunch(TileBitmaps(p, CurrentStream(a.x.get_device_index())), "the bitmaps", MUSTAFAR_ARCHS);
  return {bitmaps, counts};
}

Tensor PackCuda(const PackArguments& a) {
  TileParams p = TilesOf(a.x, a.keys);
  const int64_t tiles = static_cast<int64_t>(p.tokens / kTile) * p.head_dim;
  CheckTensor(a.bitmaps, "bitmaps", ScalarType::Long, "int64", 2, a.x);
  CheckTensor(a.offsets, "offsets", ScalarType::Int, "int32", 2, a.x);
  CheckInt32(a.starts, "starts", p.heads, a.x);
  Check(a.bitmaps.size(0) == p.heads && a.bitmaps.size(1) == tiles &&
            a.offsets.size(0) == p.heads && a.offsets.size(1) == tiles + 1,
        "bitmaps and offsets must be those of x ", Shape{a.x}, ", got ", Shape{a.bitmaps}, " and ",
        Shape{a.offsets});
  const torch::stable::accelerator::DeviceGuard guard(a.x.get_device_index());
  const Tensor packed = EmptyLike(a.x, a.total);
  if (tiles == 0 || p.heads == 0) return packed;
  p.bitmaps = DataOf<int64_t>(a.bitmaps);
  p.offsets = DataOf<int32_t>(a.offsets);
  p.starts = DataOf<int32_t>(a.starts);
  p.packed = DataOf<uint16_t>(packed);
  CheckLaunch(TilePack(p, CurrentStream(a.x.get_device_index())), "the packing", MUSTAFAR_ARCHS);
  return packed;
}

TileProductParams ProductOf(const ProductArguments& a, int64_t depth, const char* depth_name) {
  Check(a.tokens >= kTile && a.tokens % kTile == 0, "tokens must be a multiple of 64, got ",
        a.tokens);
  Check(a.head_dim >= kTile && a.head_dim % kTile == 0, "head dim must be a multiple of 64, got ",
        a.head_dim);
  CheckTensor(a.b, "B", ScalarType::Half, "float16", 3, a.packed);
  CheckTensor(a.packed, "NZ", ScalarType::Half, "float16", 1, a.b);
  CheckTensor(a.bitmaps, "bmp", ScalarType::Long, "int64", 2, a.b);
  CheckTensor(a.offsets, "idx", ScalarType::Int, "int32", 2, a.b);
  const int64_t heads = a.bitmaps.size(0), tiles = a.tokens / kTile * a.head_dim;
  CheckInt32(a.starts, "NZ_Offset", heads, a.b);
  Check(
      a.groups >= 1 && a.b.size(0) == heads * a.groups && a.b.size(1) == 8 && a.b.size(2) == depth,
      "B must be (", heads, " heads * num_key_value_groups = ", a.groups, ", 8, ", depth_name,
      " = ", depth, "), got ", Shape{a.b});
  Check(a.bitmaps.size(1) == tiles && a.offsets.size(0) == heads && a.offsets.size(1) == tiles + 1,
        "bmp must be (heads, ", tiles, ") and idx (heads, ", tiles + 1, "), got ", Shape{a.bitmaps},
        " and ", Shape{a.offsets});
  TileProductParams p;
  p.bitmaps = DataOf<int64_t>(a.bitmaps);
  p.packed = DataOf<uint16_t>(a.packed);
  p.offsets = DataOf<int32_t>(a.offsets);
  p.starts = DataOf<int32_t>(a.starts);
  p.b = DataOf<uint16_t>(a.b);
  p.batch = ToInt32(a.b.size(0), "batch");
  p.groups = ToInt32(a.groups, "groups");
  p.tokens = ToInt32(a.tokens, "tokens");
  p.head_dim = ToInt32(a.head_dim, "head dim");
  Check(p.batch >= 1 && p.batch <= 65535, "the batch must be from 1 to 65535, got ", p.batch);
  return p;
}

Tensor KeysCuda(const ProductArguments& a) {
  TileProductParams p = ProductOf(a, a.head_dim, "head dim");
  const torch::stable::accelerator::DeviceGuard guard(a.b.get_device_index());
  const std::array<int64_t, 3> shape = {p.batch, 8, p.tokens};
  const Tensor out = EmptyLike(a.b, shape);
  p.out = DataOf<uint16_t>(out);
  CheckLaunch(TileKeys(p, CurrentStream(a.b.get_device_index())), "the keys' product",
              MUSTAFAR_ARCHS);
  return out;
}

Tensor ValuesCuda(const ProductArguments& a) {
  TileProductParams p = ProductOf(a, a.tokens, "tokens");
  const torch::stable::accelerator::DeviceGuard guard(a.b.get_device_index());
  const std::array<int64_t, 3> shape = {p.batch, 8, p.head_dim};
  const Tensor out = EmptyLike(a.b, shape);
  p.out = DataOf<uint16_t>(out);
  const Scratch scratch(a.b, TileValuesScratchBytes(p));
  CheckLaunch(TileValues(p, scratch.data(), CurrentStream(a.b.get_device_index())),
              "the values' product", MUSTAFAR_ARCHS);
  return out;
}

}  // namespace
}  // namespace accel::mustafar

STABLE_TORCH_LIBRARY_FRAGMENT(mustafar, m) {
  using namespace accel::mustafar;
  using accel::Schema;
  m.def(Schema<BitmapArguments>("tile_bitmaps", "(Tensor bitmaps, Tensor counts)").c_str());
  m.def(Schema<PackArguments>("tile_pack", "Tensor").c_str());
  m.def(Schema<ProductArguments>("tile_keys", "Tensor").c_str());
  m.def(Schema<ProductArguments>("tile_values", "Tensor").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(mustafar, CUDA, m) {
  using namespace accel::mustafar;
  using accel::Boxed;
  m.impl("tile_bitmaps", &Boxed<BitmapArguments, &BitmapsCuda>);
  m.impl("tile_pack", &Boxed<PackArguments, &PackCuda>);
  m.impl("tile_keys", &Boxed<ProductArguments, &KeysCuda>);
  m.impl("tile_values", &Boxed<ProductArguments, &ValuesCuda>);
}
