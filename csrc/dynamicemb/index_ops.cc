// File: index_ops.cc
//
// The torch ops that move rows and reckon with indices: bytes between rows and tensors, segments,
// selections, and the dealing out of keys to ranks.

#include <tuple>

#include "csrc/common/device_ops.h"
#include "csrc/dynamicemb/deal.h"
#include "csrc/dynamicemb/dynamicemb.h"
#include "csrc/dynamicemb/permute.h"

namespace accel::dynamicemb {
namespace {

void Launched(int code, const char* op) { CheckLaunch(code, op, DYNAMICEMB_ARCHS); }

// ---- Rows as bytes

struct LoadRowsArguments {
  OpArguments& in;
  Tensor state = in.GetTensor("state");
  Tensor rows = in.GetTensor("rows");
  int64_t bytes = in.GetInt("bytes");
};

void CheckRowBytes(int64_t bytes) {
  Check(bytes > 0 && bytes % 4 == 0, "bytes must be a positive multiple of 4, got ", bytes);
}

Tensor LoadRows(const LoadRowsArguments& a) {
  CheckVector(a.rows, "rows", ScalarType::Long, -1, a.rows);
  CheckRowBytes(a.bytes);
  const At<Where> at(a.rows);
  const int64_t n = a.rows.numel();
  const Tensor out = Empty(a.rows, {n, a.bytes / 4}, aoti_torch_dtype_float32());
  Launched(
      CopyRows(at.where, n, In<int64_t>(a.rows), out.mutable_data_ptr(), a.bytes, true, nullptr),
      "load_rows");
  return out;
}

struct StoreRowsArguments {
  OpArguments& in;
  Tensor values = in.GetTensor("values");  // (rows, words) float32
  Tensor state = in.GetTensor("state");
  Tensor rows = in.GetTensor("rows");
  MaybeTensor chosen = in.GetMaybeTensor("chosen");  // (rows) uint8
};

void StoreRows(const StoreRowsArguments& a) {
  CheckVector(a.rows, "rows", ScalarType::Long, -1, a.rows);
  const int64_t n = a.rows.numel();
  Check(a.values.dim() == 2 && a.values.is_contiguous() && a.values.size(0) == n &&
            a.values.scalar_type() == ScalarType::Float,
        "values must be a contiguous float32 tensor of ", n, " rows, got ",
        TypeName(a.values.scalar_type()), " ", Shape{a.values});
  if (a.chosen) CheckVector(*a.chosen, "chosen", ScalarType::Byte, n, a.rows);
  const At<Where> at(a.rows);
  Launched(CopyRows(at.where, n, In<int64_t>(a.rows), const_cast<void*>(a.values.const_data_ptr()),
                    a.values.size(1) * 4, false, In<uint8_t>(a.chosen)),
           "store_rows");
}

// ---- Indices

struct ExpandIdsArguments {
  OpArguments& in;
  Tensor offsets = in.GetTensor("offsets");
  int64_t n = in.GetSymInt("n");
};

Tensor SegmentIds(const ExpandIdsArguments& a) {
  CheckVector(a.offsets, "offsets", ScalarType::Long, -1, a.offsets);
  const At<Where> at(a.offsets);
  const Tensor out = Empty(a.offsets, a.n, aoti_torch_dtype_int32());
  Launched(
      ExpandIds(at.where, a.n, a.offsets.numel() - 1, In<int64_t>(a.offsets), Out<int32_t>(out)),
      "expand_table_ids");
  return out;
}

struct SelectArguments {
  OpArguments& in;
  Tensor flags = in.GetTensor("flags");              // (n) bool
  MaybeTensor inputs = in.GetMaybeTensor("inputs");  // (n) int64
};

std::tuple<Tensor, Tensor> Selected(const SelectArguments& a) {
  CheckVector(a.flags, "flags", ScalarType::Bool, -1, a.flags);
  const int64_t n = a.flags.numel();
  if (a.inputs) CheckVector(*a.inputs, "inputs", ScalarType::Long, n, a.flags);
  const At<Where> at(a.flags);
  const Tensor out = Empty(a.flags, n, aoti_torch_dtype_int64());
  const Tensor count = Empty(a.flags, int64_t{1}, aoti_torch_dtype_int64());
  const Tensor scratch = EmptyBytes(a.flags, SelectScratch(n));
  Launched(Select(at.where, n, In<bool>(a.flags), In<int64_t>(a.inputs), Out<int64_t>(out),
                  Out<int64_t>(count), scratch.mutable_data_ptr()),
           "flagged_compact");
  return {out, count};
}

struct BucketizeArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");
  Tensor offsets = in.GetTensor("offsets");
  Tensor dist = in.GetTensor("dist");
  MaybeTensor block_sizes = in.GetMaybeTensor("block_sizes");
  MaybeTensor weights = in.GetMaybeTensor("weights");
  int64_t world = in.GetInt("world");
};

std::tuple<Tensor, Tensor, Tensor, Tensor> BlockBucketize(const BucketizeArguments& a) {
  CheckVector(a.keys, "keys", ScalarType::Long, -1, a.keys);
  CheckVector(a.offsets, "offsets", ScalarType::Long, -1, a.keys);
  CheckVector(a.dist, "dist", ScalarType::Int, -1, a.keys);
  const int64_t features = a.dist.numel(), bags = a.offsets.numel() - 1, n = a.keys.numel();
  Check(features > 0 && bags >= 0 && bags % features == 0,
        "offsets must have features * batch + 1 values, got ", bags + 1, " for ", features,
        " features");
  Check(a.world >= 1, "world must be >= 1, got ", a.world);
  if (a.block_sizes) CheckVector(*a.block_sizes, "block_sizes", ScalarType::Long, features, a.keys);
  if (a.weights) CheckVector(*a.weights, "weights", ScalarType::Float, n, a.keys);
  const At<Where> at(a.keys);
  const int32_t int64 = aoti_torch_dtype_int64();
  const Tensor lengths = Empty(a.keys, a.world * bags, int64);
  const Tensor keys = Empty(a.keys, n, int64), permute = Empty(a.keys, n, int64);
  const Tensor weights = Empty(a.keys, a.weights ? n : 0, aoti_torch_dtype_float32());
  const bool tiles = at.where.cuda && a.world <= kMostTileRanks;
  const Tensor offsets = Empty(a.keys, tiles ? 0 : a.world * bags + 1, int64);
  BucketizeArgs args;
  args.n = n;
  args.features = features;
  args.batch = bags / features;
  args.world = a.world;
  args.keys = In<int64_t>(a.keys);
  args.offsets = In<int64_t>(a.offsets);
  args.dist = In<int32_t>(a.dist);
  args.block_sizes = In<int64_t>(a.block_sizes);
  args.weights = In<float>(a.weights);
  args.new_lengths = Out<int64_t>(lengths);
  args.new_offsets = Out<int64_t>(offsets);
  args.new_keys = Out<int64_t>(keys);
  args.new_weights = Out<float>(weights);
  args.permute = Out<int64_t>(permute);
  const size_t bytes = tiles ? BucketizeTilesScratch(args) : BucketizeScratch(args);
  const Tensor scratch = EmptyBytes(a.keys, bytes);
  args.scratch = scratch.mutable_data_ptr();
  Launched(tiles ? BucketizeTiles(at.where, args) : Bucketize(at.where, args), "block_bucketize");
  return {lengths, keys, weights, permute};
}

struct DealKeysArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");
  Tensor offsets = in.GetTensor("offsets");                    // (segments + 1)
  Tensor dist = in.GetTensor("dist");                          // (segments) int32
  MaybeTensor block_sizes = in.GetMaybeTensor("block_sizes");  // (segments)
  int64_t world = in.GetInt("world");
};

std::tuple<Tensor, Tensor, Tensor> DealtKeys(const DealKeysArguments& a) {
  CheckVector(a.keys, "keys", ScalarType::Long, -1, a.keys);
  CheckVector(a.offsets, "offsets", ScalarType::Long, -1, a.keys);
  const int64_t n = a.keys.numel(), segments = a.offsets.numel() - 1;
  CheckVector(a.dist, "dist", ScalarType::Int, segments, a.keys);
  if (a.block_sizes) CheckVector(*a.block_sizes, "block_sizes", ScalarType::Long, segments, a.keys);
  Check(a.world >= 1 && segments >= 1 && a.world * segments <= kMostParts,
        "world times segments must be 1 to ", kMostParts, ", got ", a.world, " times ", segments);
  const At<Where> at(a.keys);
  const int32_t int64 = aoti_torch_dtype_int64();
  const Tensor lengths = Empty(a.keys, a.world * segments, int64);
  const Tensor keys = Empty(a.keys, n, int64), place = Empty(a.keys, n, int64);
  DealKeysArgs args;
  args.n = n;
  args.segments = segments;
  args.world = a.world;
  args.keys = In<int64_t>(a.keys);
  args.offsets = In<int64_t>(a.offsets);
  args.dist = In<int32_t>(a.dist);
  args.blocks = In<int64_t>(a.block_sizes);
  args.lengths = Out<int64_t>(lengths);
  args.new_keys = Out<int64_t>(keys);
  args.place = Out<int64_t>(place);
  const Tensor scratch = EmptyBytes(a.keys, DealKeysScratch(args));
  args.scratch = scratch.mutable_data_ptr();
  Launched(DealKeys(at.where, args), "deal_keys");
  return {lengths, keys, place};
}

struct PermuteArguments {
  OpArguments& in;
  Tensor permute = in.GetTensor("permute");
  Tensor lengths = in.GetTensor("lengths");  // (rows, bags) int32 or int64
  Tensor values = in.GetTensor("values");
  MaybeTensor weights = in.GetMaybeTensor("weights");
  int64_t n = in.GetSymInt("n");
};

int64_t BytesOf(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Long:
    case ScalarType::Double:
      return 8;
    case ScalarType::Int:
    case ScalarType::Float:
      return 4;
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return 2;
    case ScalarType::Byte:
    case ScalarType::Bool:
    case ScalarType::Char:
      return 1;
    default:
      Fail(name, " must be of whole numbers or floats, got ", TypeName(t.scalar_type()));
  }
}

Moved MovedOf(const Tensor& t, const Tensor& out, const char* name) {
  return {BytesOf(t, name), t.const_data_ptr(), out.mutable_data_ptr()};
}

std::tuple<Tensor, Tensor, Tensor> PermuteRows(const PermuteArguments& a) {
  CheckVector(a.permute, "permute", ScalarType::Int, -1, a.values);
  const bool wide = a.lengths.scalar_type() == ScalarType::Long;
  Check((wide || a.lengths.scalar_type() == ScalarType::Int) && a.lengths.dim() == 2 &&
            a.lengths.is_contiguous() && a.lengths.is_cuda() == a.values.is_cuda(),
        "lengths must be a contiguous int32 or int64 tensor of two dimensions beside values, got ",
        TypeName(a.lengths.scalar_type()), " ", Shape{a.lengths});
  CheckVector(a.values, "values", a.values.scalar_type(), -1, a.permute);
  const Tensor& weight = a.weights ? *a.weights : a.values;
  if (a.weights) {
    CheckVector(weight, "weights", weight.scalar_type(), a.values.numel(), a.values);
  }
  Check(a.n >= 0, "n must be >= 0, got ", a.n);
  PermuteArgs args;
  args.rows = a.lengths.size(0);
  args.bags = a.lengths.size(1);
  args.new_rows = a.permute.numel();
  args.n = a.n;
  args.wide = wide;
  const At<Where> at(a.values);
  const Tensor lengths = Empty(a.values, {args.new_rows, args.bags}, DtypeOf(a.lengths));
  const Tensor values = Empty(a.values, a.n, DtypeOf(a.values));
  const Tensor weights = Empty(a.values, a.weights ? a.n : 0, DtypeOf(weight));
  args.permute = In<int32_t>(a.permute);
  args.lengths = a.lengths.const_data_ptr();
  args.new_lengths = lengths.mutable_data_ptr();
  args.values = MovedOf(a.values, values, "values");
  if (a.weights) args.weights = MovedOf(weight, weights, "weights");
  const Tensor scratch = EmptyBytes(a.values, PermuteScratch(args));
  args.scratch = scratch.mutable_data_ptr();
  Launched(Permute(at.where, args), "permute_rows");
  return {lengths, values, weights};
}

struct MoveRowsArguments {
  OpArguments& in;
  Tensor rows = in.GetTensor("rows");    // (n, dim)
  Tensor order = in.GetTensor("order");  // (m) int32 or int64
  bool scatter = in.GetBool("scatter");
  double factor = in.GetFloat("factor");
};

Tensor MovedRows(const MoveRowsArguments& a) {
  const bool wide = a.order.scalar_type() == ScalarType::Long;
  CheckVector(a.order, "order", wide ? ScalarType::Long : ScalarType::Int, -1, a.rows);
  Check(a.rows.dim() == 2 && a.rows.is_contiguous(),
        "rows must be a contiguous tensor of two dimensions, got ", Shape{a.rows});
  const int64_t n = a.order.numel(), bytes = BytesOf(a.rows, "rows");
  Check(!a.scatter || n == a.rows.size(0), "order must have a place for each of ", a.rows.size(0),
        " rows, got ", n);
  Check(bytes != 1 && (a.factor == 1 || a.rows.scalar_type() == ScalarType::Float),
        "rows must be float32 with a factor, of 2 bytes or more without, got ",
        TypeName(a.rows.scalar_type()));
  const At<Where> at(a.rows);
  const Tensor out = Empty(a.rows, {n, a.rows.size(1)}, DtypeOf(a.rows));
  MoveRowsArgs args;
  args.rows = n;
  args.row_bytes = a.rows.size(1) * bytes;
  args.from = a.rows.const_data_ptr();
  args.order = a.order.const_data_ptr();
  args.wide = wide;
  args.scatter = a.scatter;
  args.factor = static_cast<float>(a.factor);
  args.to = out.mutable_data_ptr();
  Launched(MoveRows(at.where, args), "move_rows");
  return out;
}

struct EndsArguments {
  OpArguments& in;
  Tensor lengths = in.GetTensor("lengths");
};

Tensor EndsOf(const EndsArguments& a) {
  CheckVector(a.lengths, "lengths", ScalarType::Long, -1, a.lengths);
  const int64_t n = a.lengths.numel();
  const At<Where> at(a.lengths);
  const Tensor out = Empty(a.lengths, n + 1, aoti_torch_dtype_int64());
  const Tensor scratch = EmptyBytes(a.lengths, EndsScratch(n));
  Launched(Ends(at.where, n, In<int64_t>(a.lengths), Out<int64_t>(out), scratch.mutable_data_ptr()),
           "ends_of");
  return out;
}

template <class Library>
void Implement(Library& m) {
  m.impl("load_rows", &Boxed<LoadRowsArguments, &LoadRows>);
  m.impl("store_rows", &BoxedVoid<StoreRowsArguments, &StoreRows>);
  m.impl("expand_ids", &Boxed<ExpandIdsArguments, &SegmentIds>);
  m.impl("flagged_compact", &Boxed<SelectArguments, &Selected>);
  m.impl("block_bucketize", &Boxed<BucketizeArguments, &BlockBucketize>);
  m.impl("deal_keys", &Boxed<DealKeysArguments, &DealtKeys>);
  m.impl("permute_rows", &Boxed<PermuteArguments, &PermuteRows>);
  m.impl("move_rows", &Boxed<MoveRowsArguments, &MovedRows>);
  m.impl("ends_of", &Boxed<EndsArguments, &EndsOf>);
}

}  // namespace
}  // namespace accel::dynamicemb

STABLE_TORCH_LIBRARY_FRAGMENT(dynamicemb, m) {
  using namespace accel::dynamicemb;
  using accel::Schema;
  using accel::Writing;
  m.def(Schema<LoadRowsArguments>("load_rows", "Tensor").c_str());
  m.def(Writing<StoreRowsArguments>("store_rows", "()").c_str());
  m.def(Schema<ExpandIdsArguments>("expand_ids", "Tensor").c_str());
  m.def(Schema<SelectArguments>("flagged_compact", "(Tensor selected, Tensor count)").c_str());
  m.def(Schema<BucketizeArguments>("block_bucketize",
                                   "(Tensor lengths, Tensor keys, Tensor weights, Tensor permute)")
            .c_str());
  m.def(Schema<DealKeysArguments>("deal_keys", "(Tensor lengths, Tensor keys, Tensor place)")
            .c_str());
  m.def(Schema<MoveRowsArguments>("move_rows", "Tensor").c_str());
  m.def(Schema<EndsArguments>("ends_of", "Tensor").c_str());
  m.def(Schema<PermuteArguments>("permute_rows", "(Tensor lengths, Tensor values, Tensor weights)")
            .c_str());
}

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CUDA, m) { accel::dynamicemb::Implement(m); }

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CPU, m) { accel::dynamicemb::Implement(m); }
