// File: tier_ops.cc
//
// The torch ops that move rows between tiers: what left one is listed without gaps, what it has not
// got is taken from the one below, and keys without a row there get one below.

#include <tuple>

#include "csrc/common/device_ops.h"
#include "csrc/dynamicemb/tiers.h"

namespace accel::dynamicemb {
namespace {

void Launched(int code, const char* op) { CheckLaunch(code, op, DYNAMICEMB_ARCHS); }

void CheckRowBytes(int64_t bytes) {
  Check(bytes > 0 && bytes % 16 == 0, "rows must have a positive multiple of 16 bytes, got ",
        bytes);
}

struct TightenArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");        // (n) int64
  Tensor values = in.GetTensor("values");    // (n, words) float32
  Tensor scores = in.GetTensor("scores");    // (n) int64
  Tensor offsets = in.GetTensor("offsets");  // (tables + 1) int64: where each list begins
  Tensor ends = in.GetTensor("ends");        // (tables + 1) int64: where it is to begin
};

std::tuple<Tensor, Tensor, Tensor> TightenLists(const TightenArguments& a) {
  CheckVector(a.keys, "keys", ScalarType::Long, -1, a.keys);
  const int64_t n = a.keys.numel();
  CheckVector(a.scores, "scores", ScalarType::Long, n, a.keys);
  CheckVector(a.offsets, "offsets", ScalarType::Long, -1, a.keys);
  CheckVector(a.ends, "ends", ScalarType::Long, a.offsets.numel(), a.keys);
  Check(a.values.dim() == 2 && a.values.is_contiguous() && a.values.size(0) == n &&
            a.values.scalar_type() == ScalarType::Float && a.values.is_cuda() == a.keys.is_cuda(),
        "values must be a contiguous float32 tensor of ", n, " rows, got ",
        TypeName(a.values.scalar_type()), " ", Shape{a.values});
  CheckRowBytes(a.values.size(1) * 4);
  const At<Where> at(a.keys);
  const Tensor keys = Empty(a.keys, n, aoti_torch_dtype_int64());
  const Tensor values = Empty(a.keys, {n, a.values.size(1)}, aoti_torch_dtype_float32());
  const Tensor scores = Empty(a.keys, n, aoti_torch_dtype_int64());
  TightenArgs args;
  args.n = n;
  args.tables = a.offsets.numel() - 1;
  args.row_bytes = a.values.size(1) * 4;
  args.offsets = In<int64_t>(a.offsets);
  args.ends = In<int64_t>(a.ends);
  args.lists = {In<int64_t>(a.keys), In<int64_t>(a.scores), a.values.const_data_ptr()};
  args.keys = Out<int64_t>(keys);
  args.scores = Out<int64_t>(scores);
  args.rows = values.mutable_data_ptr();
  Launched(Tighten(at.where, args), "tighten_lists");
  return {keys, values, scores};
}

struct RefusedArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");                // (n) int64
  Tensor offsets = in.GetTensor("offsets");          // (tables + 1) int64
  Tensor rows = in.GetTensor("rows");                // (n) int64
  MaybeTensor scores = in.GetMaybeTensor("scores");  // (n) int64
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> RefusedKeys(const RefusedArguments& a) {
  CheckVector(a.keys, "keys", ScalarType::Long, -1, a.keys);
  const int64_t n = a.keys.numel(), int64 = aoti_torch_dtype_int64();
  CheckVector(a.offsets, "offsets", ScalarType::Long, -1, a.keys);
  CheckVector(a.rows, "rows", ScalarType::Long, n, a.keys);
  if (a.scores) CheckVector(*a.scores, "scores", ScalarType::Long, n, a.keys);
  const At<Where> at(a.keys);
  const Tensor places = Empty(a.keys, n, int64), some = Empty(a.keys, n, int64);
  const Tensor scores = Empty(a.keys, a.scores ? n : 0, int64);
  const Tensor ends = Empty(a.keys, a.offsets.numel(), int64);
  const Tensor count = Empty(a.keys, int64_t{1}, int64);
  const Tensor scratch = EmptyBytes(a.keys, RefusedScratch(n));
  RefusedArgs args;
  args.n = n;
  args.tables = a.offsets.numel() - 1;
  args.offsets = In<int64_t>(a.offsets);
  args.keys = In<int64_t>(a.keys);
  args.scores = In<int64_t>(a.scores);
  args.rows = In<int64_t>(a.rows);
  args.places = Out<int64_t>(places);
  args.some_keys = Out<int64_t>(some);
  args.some_scores = a.scores ? Out<int64_t>(scores) : nullptr;
  args.ends = Out<int64_t>(ends);
  args.count = Out<int64_t>(count);
  args.scratch = scratch.mutable_data_ptr();
  Launched(Refused(at.where, args), "refused_keys");
  return {places, some, scores, ends, count};
}

struct TakeArguments {
  OpArguments& in;
  Tensor state = in.GetTensor("state");
  Tensor below = in.GetTensor("below");    // (n) int64
  Tensor rows = in.GetTensor("rows");      // (n) int64
  Tensor status = in.GetTensor("status");  // (n) uint8
  int64_t bytes = in.GetInt("bytes");
};

Tensor TakeRows(const TakeArguments& a) {
  CheckVector(a.rows, "rows", ScalarType::Long, -1, a.rows);
  const int64_t n = a.rows.numel();
  CheckVector(a.below, "below", ScalarType::Long, n, a.rows);
  CheckVector(a.status, "status", ScalarType::Byte, n, a.rows);
  CheckRowBytes(a.bytes);
  const At<Where> at(a.rows);
  const Tensor now = Empty(a.rows, n, aoti_torch_dtype_uint8());
  TakeArgs args;
  args.n = n;
  args.row_bytes = a.bytes;
  args.below = In<int64_t>(a.below);
  args.rows = In<int64_t>(a.rows);
  args.status = In<uint8_t>(a.status);
  args.now = Out<uint8_t>(now);
  Launched(Take(at.where, args), "take_rows");
  return now;
}

struct PlaceArguments {
  OpArguments& in;
  Tensor rows = in.GetWritten("rows");      // (n) int64
  Tensor status = in.GetWritten("status");  // (n) uint8
  Tensor places = in.GetTensor("places");   // (n) int64
  Tensor count = in.GetTensor("count");     // (1) int64
  Tensor found_rows = in.GetTensor("found_rows");
  Tensor found_status = in.GetTensor("found_status");
};

void PlaceRows(const PlaceArguments& a) {
  CheckVector(a.rows, "rows", ScalarType::Long, -1, a.rows);
  const int64_t n = a.rows.numel();
  CheckVector(a.status, "status", ScalarType::Byte, n, a.rows);
  CheckVector(a.places, "places", ScalarType::Long, n, a.rows);
  CheckVector(a.count, "count", ScalarType::Long, 1, a.rows);
  CheckVector(a.found_rows, "found_rows", ScalarType::Long, n, a.rows);
  CheckVector(a.found_status, "found_status", ScalarType::Byte, n, a.rows);
  const At<Where> at(a.rows);
  PlaceArgs args;
  args.n = n;
  args.places = In<int64_t>(a.places);
  args.count = In<int64_t>(a.count);
  args.found_rows = In<int64_t>(a.found_rows);
  args.found_status = In<uint8_t>(a.found_status);
  args.rows = Out<int64_t>(a.rows);
  args.status = Out<uint8_t>(a.status);
  Launched(Place(at.where, args), "place_rows");
}

template <class Library>
void Implement(Library& m) {
  m.impl("tighten_lists", &Boxed<TightenArguments, &TightenLists>);
  m.impl("refused_keys", &Boxed<RefusedArguments, &RefusedKeys>);
  m.impl("take_rows", &Boxed<TakeArguments, &TakeRows>);
  m.impl("place_rows", &BoxedVoid<PlaceArguments, &PlaceRows>);
}

}  // namespace
}  // namespace accel::dynamicemb

STABLE_TORCH_LIBRARY_FRAGMENT(dynamicemb, m) {
  using namespace accel::dynamicemb;
  using accel::Schema;
  using accel::Writing;
  m.def(Schema<TightenArguments>("tighten_lists", "(Tensor keys, Tensor values, Tensor scores)")
            .c_str());
  m.def(
      Schema<RefusedArguments>(
          "refused_keys", "(Tensor places, Tensor keys, Tensor scores, Tensor ends, Tensor count)")
          .c_str());
  m.def(Writing<TakeArguments>("take_rows", "Tensor").c_str());
  m.def(Schema<PlaceArguments>("place_rows", "()").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CUDA, m) { accel::dynamicemb::Implement(m); }

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CPU, m) { accel::dynamicemb::Implement(m); }
