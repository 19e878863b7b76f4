// File: ops.cc
//
// The torch ops of dynamic embeddings on keys and rows: schemas, checks, and one implementation for
// CPU and CUDA tensors. Rows are int64 addresses (dynamicemb.h); an op that reads or writes rows
// has `state`, a tensor that stands for the tables, so that PyTorch keeps the order of such ops.
// Fake kernels are in Python.

#include <tuple>

#include "csrc/common/build_info.h"
#include "csrc/common/device_ops.h"
#include "csrc/dynamicemb/dynamicemb.h"

ACCEL_PACKAGE("dynamicemb");

namespace accel::dynamicemb {
namespace {

void Launched(int code, const char* op) { CheckLaunch(code, op, DYNAMICEMB_ARCHS); }

DType DTypeOf(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat;
    case ScalarType::Half:
      return DType::kHalf;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Double:
      return DType::kDouble;
    default:
      Fail(name, " must be float32, float16, bfloat16 or float64, got ", TypeName(t.scalar_type()));
  }
}

DType CheckedDType(int64_t code, const char* name) {
  Check(code >= 0 && code <= 3, name, " must be 0 (float32), 1 (float16), 2 (bfloat16) or 3 ",
        "(float64), got ", code);
  return static_cast<DType>(code);
}

int32_t TorchType(DType dtype) {
  switch (dtype) {
    case DType::kHalf:
      return aoti_torch_dtype_float16();
    case DType::kBFloat16:
      return aoti_torch_dtype_bfloat16();
    case DType::kDouble:
      return aoti_torch_dtype_float64();
    default:
      return aoti_torch_dtype_float32();
  }
}

constexpr int64_t kMostKeys = (int64_t{1} << 31) - 2;

void CheckKeys(const Tensor& keys) {
  CheckVector(keys, "keys", ScalarType::Long, -1, keys);
  Check(keys.numel() <= kMostKeys, "keys has ", keys.numel(), " values; at most ", kMostKeys,
        " are possible in one call");
}

// ---- Unique keys

struct UniqueArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");                          // (n) int64
  Tensor offsets = in.GetTensor("offsets");                    // (tables + 1) int64
  MaybeTensor frequencies = in.GetMaybeTensor("frequencies");  // (n) int64
  bool counted = in.GetBool("counted");
};

std::tuple<Tensor, Tensor, Tensor, Tensor> SegmentedUnique(const UniqueArguments& a) {
  CheckKeys(a.keys);
  CheckVector(a.offsets, "offsets", ScalarType::Long, -1, a.keys);
  Check(a.offsets.numel() >= 2, "offsets must have tables + 1 values, got ", a.offsets.numel());
  const int64_t n = a.keys.numel(), tables = a.offsets.numel() - 1;
  if (a.frequencies) CheckVector(*a.frequencies, "frequencies", ScalarType::Long, n, a.keys);
  const At<Where> at(a.keys);
  const int32_t int64 = aoti_torch_dtype_int64();
  const Tensor unique = Empty(a.keys, n, int64);
  const Tensor inverse = Empty(a.keys, n, aoti_torch_dtype_int32());
  const Tensor unique_offsets = Empty(a.keys, tables + 1, int64);
  const Tensor counts = Empty(a.keys, a.counted ? n : 0, int64);
  const Tensor scratch = EmptyBytes(a.keys, UniqueScratch(n, tables));
  UniqueArgs args;
  args.n = n;
  args.tables = tables;
  args.keys = In<int64_t>(a.keys);
  args.offsets = In<int64_t>(a.offsets);
  args.frequencies = In<int64_t>(a.frequencies);
  args.unique = Out<int64_t>(unique);
  args.inverse = Out<int32_t>(inverse);
  args.unique_offsets = Out<int64_t>(unique_offsets);
  args.counts = a.counted ? Out<int64_t>(counts) : nullptr;
  args.scratch = scratch.mutable_data_ptr();
  Launched(Unique(at.where, args), "segmented_unique");
  return {unique, inverse, unique_offsets, counts};
}

// ---- Arguments of everything that reads rows

struct Source {
  OpArguments& in;
  Tensor state = in.GetTensor("state");                // (8) int64: updates, counts of status
  Tensor rows = in.GetTensor("rows");                  // (rows) int64
  Tensor keys = in.GetTensor("keys");                  // (rows) int64
  MaybeTensor inverse = in.GetMaybeTensor("inverse");  // (n) int32
  Tensor row_offsets = in.GetTensor("row_offsets");    // (tables + 1) int64
  Tensor infos = in.GetTensor("infos");                // (tables, kInfoWords) int64
  int64_t weight_dtype = in.GetInt("weight_dtype");
};

struct BagArguments {
  OpArguments& in;
  MaybeTensor offsets = in.GetMaybeTensor("offsets");              // (features * batch + 1) int64
  MaybeTensor feature_table = in.GetMaybeTensor("feature_table");  // (features) int32
  MaybeTensor dim_offsets = in.GetMaybeTensor("dim_offsets");      // (features + 1) int64
  MaybeTensor weights = in.GetMaybeTensor("weights");              // (n)
  int64_t pooling = in.GetInt("pooling");
  bool whole = in.GetBool("whole");
};

RowSource SourceOf(const Source& a) {
  CheckVector(a.state, "state", ScalarType::Long, kStateWords, a.rows);
  CheckVector(a.rows, "rows", ScalarType::Long, -1, a.rows);
  CheckVector(a.keys, "keys", ScalarType::Long, a.rows.numel(), a.rows);
  CheckVector(a.row_offsets, "row_offsets", ScalarType::Long, -1, a.rows);
  const int64_t tables = a.row_offsets.numel() - 1;
  Check(a.infos.scalar_type() == ScalarType::Long && a.infos.dim() == 2 &&
            a.infos.is_contiguous() && a.infos.size(0) == tables && a.infos.size(1) == kInfoWords &&
            a.infos.is_cuda() == a.rows.is_cuda(),
        "infos must be a contiguous int64 tensor of shape (", tables, ", ", kInfoWords,
        ") on the device of rows, got ", Shape{a.infos});
  if (a.inverse) CheckVector(*a.inverse, "inverse", ScalarType::Int, -1, a.rows);
  RowSource source;
  source.tables = tables;
  source.infos = reinterpret_cast<const RowInfo*>(In<int64_t>(a.infos));
  source.row_offsets = In<int64_t>(a.row_offsets);
  source.rows = In<int64_t>(a.rows);
  source.keys = In<int64_t>(a.keys);
  source.inverse = In<int32_t>(a.inverse);
  source.dtype = CheckedDType(a.weight_dtype, "weight_dtype");
  return source;
}

int64_t Occurrences(const Source& a) { return a.inverse ? a.inverse->numel() : a.rows.numel(); }

// `stride`: values of an output row.
Bags BagsOf(const BagArguments& a, const Source& source, int64_t stride, DType out) {
  Check(a.pooling >= 0 && a.pooling <= 2, "pooling must be 0 (sum), 1 (mean) or 2 (none), got ",
        a.pooling);
  Bags bags;
  bags.pooling = static_cast<Pooling>(a.pooling);
  bags.n = Occurrences(source);
  bags.out_stride = stride;
  bags.out_dtype = out;
  bags.whole = a.whole;
  if (bags.pooling == Pooling::kNone) {
    Check(!a.weights, "weights need a pooling, and there is none");
    return bags;
  }
  Check(a.offsets && a.feature_table && a.dim_offsets,
        "offsets, feature_table and dim_offsets are needed by a pooled lookup");
  const Tensor& beside = source.rows;
  CheckVector(*a.offsets, "offsets", ScalarType::Long, -1, beside);
  CheckVector(*a.feature_table, "feature_table", ScalarType::Int, -1, beside);
  bags.features = a.feature_table->numel();
  CheckVector(*a.dim_offsets, "dim_offsets", ScalarType::Long, bags.features + 1, beside);
  const int64_t all = a.offsets->numel() - 1;
  Check(bags.features > 0 && all >= 0 && all % bags.features == 0,
        "offsets must have features * batch + 1 values, got ", all + 1, " for ", bags.features,
        " features");
  bags.batch = all / bags.features;
  bags.offsets = In<int64_t>(a.offsets);
  bags.feature_table = In<int32_t>(a.feature_table);
  bags.dim_offsets = In<int64_t>(a.dim_offsets);
  if (a.weights) {
    const bool wide = source.weight_dtype == static_cast<int64_t>(DType::kDouble);
    CheckVector(*a.weights, "weights", wide ? ScalarType::Double : ScalarType::Float, bags.n,
                beside);
    bags.weights = a.weights->const_data_ptr();
  }
  return bags;
}

// ---- Lookup

struct ForwardArguments {
  OpArguments& in;
  Source source{in};
  BagArguments bags{in};
  int64_t width = in.GetSymInt("width");
  int64_t out_dtype = in.GetInt("out_dtype");
  bool initialize = in.GetBool("initialize");
};

Tensor Forward(const ForwardArguments& a) {
  RowSource source = SourceOf(a.source);
  source.initialize = a.initialize;
  const DType dtype = CheckedDType(a.out_dtype, "out_dtype");
  Check(a.width >= 1, "width must be >= 1, got ", a.width);
  const Bags bags = BagsOf(a.bags, a.source, a.width, dtype);
  const int64_t rows = bags.pooling == Pooling::kNone ? bags.n : bags.batch;
  const At<Where> at(a.source.rows);
  const Tensor out = Empty(a.source.rows, {rows, a.width}, TorchType(dtype));
  Launched(LookupForward(at.where, bags, source, out.mutable_data_ptr()), "lookup_forward");
  return out;
}

void CheckGrads(const Tensor& grads, const Bags& bags) {
  const int64_t rows = bags.pooling == Pooling::kNone ? bags.n : bags.batch;
  Check(grads.dim() == 2 && grads.is_contiguous() && grads.size(0) == rows,
        "grads must be a contiguous tensor of ", rows, " rows, got ", Shape{grads});
}

struct WeightGradArguments {
  OpArguments& in;
  Tensor grads = in.GetTensor("grads");
  Source source{in};
  BagArguments bags{in};
  Tensor bag_of = in.GetTensor("bag_of");  // (n) int32
  bool initialize = in.GetBool("initialize");
};

Tensor WeightGradients(const WeightGradArguments& a) {
  RowSource source = SourceOf(a.source);
  source.initialize = a.initialize;
  const Bags bags = BagsOf(a.bags, a.source, a.grads.size(1), DTypeOf(a.grads, "grads"));
  CheckGrads(a.grads, bags);
  CheckVector(a.bag_of, "bag_of", ScalarType::Int, bags.n, a.source.rows);
  Check(bags.pooling != Pooling::kNone, "weights need a pooling, and there is none");
  const At<Where> at(a.source.rows);
  const bool wide = source.dtype == DType::kDouble;
  const Tensor out =
      Empty(a.source.rows, bags.n, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  Launched(WeightGrads(at.where, bags, source, a.grads.const_data_ptr(), In<int32_t>(a.bag_of),
                       out.mutable_data_ptr()),
           "weight_grads");
  return out;
}

struct ExpandBagsArguments {
  OpArguments& in;
  Tensor offsets = in.GetTensor("offsets");
  int64_t n = in.GetSymInt("n");
};

// The bag of each of n occurrences.
Tensor Expanded(const At<Where>& at, const Bags& bags, int64_t n, const Tensor& beside) {
  const Tensor out = Empty(beside, n, aoti_torch_dtype_int32());
  Launched(ExpandBags(at.where, bags, Out<int32_t>(out)), "expand_bags");
  return out;
}

Tensor BagOf(const ExpandBagsArguments& a) {
  CheckVector(a.offsets, "offsets", ScalarType::Long, -1, a.offsets);
  const At<Where> at(a.offsets);
  Bags bags;
  bags.features = 1;
  bags.batch = a.offsets.numel() - 1;
  bags.offsets = In<int64_t>(a.offsets);
  return Expanded(at, bags, a.n, a.offsets);
}

// ---- Backward

struct SortArguments {
  OpArguments& in;
  Tensor inverse = in.GetTensor("inverse");
};

std::tuple<Tensor, Tensor> SortRows(const SortArguments& a) {
  CheckVector(a.inverse, "inverse", ScalarType::Int, -1, a.inverse);
  const At<Where> at(a.inverse);
  SortArgs args;
  args.n = a.inverse.numel();
  const Tensor ids = Empty(a.inverse, args.n, aoti_torch_dtype_int32());
  const Tensor order = Empty(a.inverse, args.n, aoti_torch_dtype_int32());
  args.scratch_bytes = SortScratch(at.where, args.n);
  const Tensor scratch = EmptyBytes(a.inverse, args.scratch_bytes);
  args.inverse = In<int32_t>(a.inverse);
  args.ids = Out<int32_t>(ids);
  args.order = Out<int32_t>(order);
  args.scratch = scratch.mutable_data_ptr();
  Launched(SortByRow(at.where, args), "sort_rows");
  return {ids, order};
}

struct OptimizerArguments {
  OpArguments& in;
  Tensor hyper = in.GetTensor("hyper");  // (kHyperWords) float64
  int64_t optimizer = in.GetInt("optimizer");
  int64_t decay = in.GetInt("decay");
  bool stochastic = in.GetBool("stochastic");
};

void FillOptimizer(const OptimizerArguments& a, const Source& source, ReduceArgs* args) {
  CheckVector(a.hyper, "hyper", ScalarType::Double, kHyperWords, source.rows);
  Check(a.optimizer >= 0 && a.optimizer <= 4, "optimizer must be from 0 to 4, got ", a.optimizer);
  Check(a.decay >= 0 && a.decay <= 2, "decay must be 0, 1 or 2, got ", a.decay);
  args->hyper = reinterpret_cast<const Hyper*>(In<double>(a.hyper));
  args->optimizer = static_cast<Optimizer>(a.optimizer);
  args->decay = static_cast<Decay>(a.decay);
  args->stochastic = a.stochastic;
  args->state = In<int64_t>(source.state);
}

struct BackwardArguments {
  OpArguments& in;
  Tensor grads = in.GetTensor("grads");
  Source source{in};
  BagArguments bags{in};
  MaybeTensor bag_of = in.GetMaybeTensor("bag_of");  // (n) int32; none: it is found here
  Tensor ids = in.GetTensor("ids");
  Tensor order = in.GetTensor("order");
  OptimizerArguments optimizer{in};
  int64_t max_dim = in.GetInt("max_dim");
};

void FillReduce(const BackwardArguments& a, ReduceArgs* args) {
  args->source = SourceOf(a.source);
  args->bags = BagsOf(a.bags, a.source, a.grads.size(1), DTypeOf(a.grads, "grads"));
  CheckGrads(a.grads, args->bags);
  const int64_t n = args->bags.n;
  CheckVector(a.ids, "ids", ScalarType::Int, n, a.source.rows);
  CheckVector(a.order, "order", ScalarType::Int, n, a.source.rows);
  if (a.bag_of) CheckVector(*a.bag_of, "bag_of", ScalarType::Int, n, a.source.rows);
  args->bag_of = In<int32_t>(a.bag_of);
  args->grads = a.grads.const_data_ptr();
  args->ids = In<int32_t>(a.ids);
  args->order = In<int32_t>(a.order);
  FillOptimizer(a.optimizer, a.source, args);
}

// The bags of a pooled lookup, where the caller has not got them.
MaybeTensor FillBags(const At<Where>& at, const BackwardArguments& a, ReduceArgs* args) {
  if (args->bags.pooling == Pooling::kNone || a.bag_of) return std::nullopt;
  const Tensor bag_of = Expanded(at, args->bags, args->bags.n, a.source.rows);
  args->bag_of = In<int32_t>(bag_of);
  return bag_of;
}

// The sums of the gradients of each row, `sums` (n, width), of rows that have any.
void Sum(const At<Where>& at, ReduceArgs* args, const BackwardArguments& a, const Tensor& sums) {
  args->sums = sums.mutable_data_ptr();
  args->sum_stride = sums.size(1);
  const Tensor scratch = EmptyBytes(a.source.rows, ReduceScratch(at.where, *args, a.max_dim));
  args->scratch = scratch.mutable_data_ptr();
  Launched(Reduce(at.where, *args, a.max_dim), "reduce_grads");
}

Tensor ReduceGrads(const BackwardArguments& a) {
  ReduceArgs args;
  FillReduce(a, &args);
  const At<Where> at(a.source.rows);
  const MaybeTensor bag_of = FillBags(at, a, &args);
  const bool wide = args.source.dtype == DType::kDouble;
  const Tensor sums = Empty(a.source.rows, {args.bags.n, a.max_dim},
                            wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  Sum(at, &args, a, sums);
  return sums;
}

void ReduceUpdate(const BackwardArguments& a) {
  ReduceArgs args;
  FillReduce(a, &args);
  const At<Where> at(a.source.rows);
  const MaybeTensor bag_of = FillBags(at, a, &args);
  const Tensor scratch = EmptyBytes(a.source.rows, ReduceScratch(at.where, args, a.max_dim));
  args.scratch = scratch.mutable_data_ptr();
  Launched(Reduce(at.where, args, a.max_dim), "reduce_update");
  Launched(AddOne(at.where, Out<int64_t>(a.source.state)), "reduce_update");
}

struct UpdateArguments {
  OpArguments& in;
  Tensor sums = in.GetTensor("sums");  // (rows, width)
  Source source{in};
  OptimizerArguments optimizer{in};
};

void UpdateRows(const UpdateArguments& a) {
  ReduceArgs args;
  args.source = SourceOf(a.source);
  const int64_t n = a.source.rows.numel();
  const bool wide = args.source.dtype == DType::kDouble;
  Check(a.sums.dim() == 2 && a.sums.is_contiguous() && a.sums.size(0) == n &&
            a.sums.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
        "sums must be a contiguous ", wide ? "float64" : "float32", " tensor of ", n, " rows, got ",
        TypeName(a.sums.scalar_type()), " ", Shape{a.sums});
  FillOptimizer(a.optimizer, a.source, &args);
  args.bags.n = n;
  args.sums = const_cast<void*>(a.sums.const_data_ptr());
  args.sum_stride = a.sums.size(1);
  const At<Where> at(a.source.rows);
  Launched(Update(at.where, args), "update_rows");
  Launched(AddOne(at.where, Out<int64_t>(a.source.state)), "update_rows");
}

// ---- Rows as bytes

struct InitArguments {
  OpArguments& in;
  Source source{in};
  MaybeTensor status = in.GetMaybeTensor("status");  // (rows) uint8
  int64_t stamp = in.GetInt("stamp");
};

void Initialize(const InitArguments& a) {
  const RowSource source = SourceOf(a.source);
  InitRowsArgs args;
  args.n = a.source.rows.numel();
  args.tables = source.tables;
  args.infos = source.infos;
  args.row_offsets = source.row_offsets;
  args.rows = source.rows;
  args.keys = source.keys;
  if (a.status) CheckVector(*a.status, "status", ScalarType::Byte, args.n, a.source.rows);
  args.status = In<uint8_t>(a.status);
  args.counts = Out<int64_t>(a.source.state) + 1;
  args.stamp = static_cast<uint64_t>(a.stamp);
  args.dtype = source.dtype;
  const At<Where> at(a.source.rows);
  Launched(InitRows(at.where, args), "init_rows");
}

std::string ThisBuild() {
  return BuildInfo(DYNAMICEMB_VERSION, DYNAMICEMB_ARCHS, CUDART_VERSION,
                   std::initializer_list<Feature>());
}

template <class Library>
void Implement(Library& m) {
  m.impl("segmented_unique", &Boxed<UniqueArguments, &SegmentedUnique>);
  m.impl("lookup_forward", &Boxed<ForwardArguments, &Forward>);
  m.impl("weight_grads", &Boxed<WeightGradArguments, &WeightGradients>);
  m.impl("expand_bags", &Boxed<ExpandBagsArguments, &BagOf>);
  m.impl("sort_rows", &Boxed<SortArguments, &SortRows>);
  m.impl("reduce_grads", &Boxed<BackwardArguments, &ReduceGrads>);
  m.impl("reduce_update", &BoxedVoid<BackwardArguments, &ReduceUpdate>);
  m.impl("update_rows", &BoxedVoid<UpdateArguments, &UpdateRows>);
  m.impl("init_rows", &BoxedVoid<InitArguments, &Initialize>);
}

}  // namespace
}  // namespace accel::dynamicemb

STABLE_TORCH_LIBRARY(dynamicemb, m) {
  using namespace accel::dynamicemb;
  using accel::Schema;
  using accel::Writing;
  m.def(Schema<UniqueArguments>(
            "segmented_unique",
            "(Tensor unique, Tensor inverse, Tensor unique_offsets, Tensor counts)")
            .c_str());
  m.def(Schema<ForwardArguments>("lookup_forward", "Tensor").c_str());
  m.def(Schema<WeightGradArguments>("weight_grads", "Tensor").c_str());
  m.def(Schema<ExpandBagsArguments>("expand_bags", "Tensor").c_str());
  m.def(Schema<SortArguments>("sort_rows", "(Tensor ids, Tensor order)").c_str());
  m.def(Schema<BackwardArguments>("reduce_grads", "Tensor").c_str());
  m.def(Writing<BackwardArguments>("reduce_update", "()").c_str());
  m.def(Writing<UpdateArguments>("update_rows", "()").c_str());
  m.def(Writing<InitArguments>("init_rows", "()").c_str());
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CUDA, m) { accel::dynamicemb::Implement(m); }

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CPU, m) { accel::dynamicemb::Implement(m); }

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&accel::dynamicemb::ThisBuild));
}
