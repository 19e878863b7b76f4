// File: cache_ops.cc
//
// Rows of a batch in a cache before a set of tables that holds every row, as two calls: one finds
// or makes the rows and says for how many keys there is no room, the other moves what left the
// cache, and what it has not got. Between them nothing is on the link.

#include <algorithm>
#include <tuple>

#include "csrc/common/scratch.h"
#include "csrc/dynamicemb/permute.h"
#include "csrc/dynamicemb/set_ops.h"
#include "csrc/dynamicemb/tiers.h"

namespace accel::dynamicemb {
namespace {

void Launched(int code, const char* op) { CheckLaunch(code, op, DYNAMICEMB_ARCHS); }

// What the first call leaves for the second one, and room that this needs, in one tensor.
struct Between {
  int64_t *left_keys, *left_scores, *left_counts;          // as the table lists them
  int64_t *ends, *lower_keys, *lower_scores, *lower_rows;  // the same without gaps; their rows
  int64_t* again;                                          // rows of those that are back
  int64_t *places, *some_keys, *some_scores, *some_ends;   // keys without a row
  int64_t *some_rows, *below;
  uint8_t* some_status;
  void* scratch;
  size_t bytes;

  // In memory from `data` on; null: how many bytes it takes.
  Between(int64_t n, int64_t tables, const void* data) {
    const auto at = reinterpret_cast<uintptr_t>(data);
    ScratchLayout layout;
    const auto words = [&](int64_t count) {
      return reinterpret_cast<int64_t*>(at + layout.Add(static_cast<size_t>(8 * count)));
    };
    for (int64_t** part : {&left_keys, &left_scores, &lower_keys, &lower_scores, &lower_rows,
                           &again, &places, &some_keys, &some_scores, &some_rows, &below}) {
      *part = words(n);
    }
    left_counts = words(tables);
    ends = words(tables + 1);
    some_ends = words(tables + 1);
    some_status = reinterpret_cast<uint8_t*>(words(n));
    const size_t most = std::max(RefusedScratch(n), EndsScratch(tables));
    scratch = reinterpret_cast<void*>(at + layout.Add(most));
    bytes = layout.bytes();
  }
};

struct CacheArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");        // (n) int64, distinct in each table
  Tensor offsets = in.GetTensor("offsets");  // (tables + 1) int64
  int64_t set = in.GetInt("set");
  Tensor state = in.GetWritten("state");
  MaybeTensor scores = in.GetMaybeTensor("scores");  // (n) int64
};

// The set of a call, which its tensors agree with.
std::shared_ptr<DynamicVariable> SetOf(const CacheArguments& a) {
  const auto variable = Held(a.set);
  CheckBatch(*variable, a.keys, a.offsets, a.state);
  if (a.scores) CheckVector(*a.scores, "scores", ScalarType::Long, a.keys.numel(), a.state);
  return variable;
}

const uint64_t* Unsigned(const int64_t* words) { return reinterpret_cast<const uint64_t*>(words); }
uint64_t* Unsigned(int64_t* words) { return reinterpret_cast<uint64_t*>(words); }
void** Rows(int64_t* words) { return reinterpret_cast<void**>(words); }

hkv::Write FindOrInsert(int64_t n, const int64_t* keys, const int64_t* scores, int64_t* rows,
                        uint8_t* status) {
  hkv::Write call;
  call.name = "find_or_insert";
  call.mode = hkv::WriteMode::kFindOrInsert;
  call.n = static_cast<uint64_t>(n);
  call.keys = Unsigned(keys);
  call.scores = Unsigned(scores);
  call.rows = Rows(rows);
  call.status = status;
  return call;
}

struct SeekArguments {
  OpArguments& in;
  CacheArguments cache{in};
  bool pin = in.GetBool("pin");
};

TightenArgs Left(const Between& parts, int64_t n, int64_t tables, const int64_t* offsets) {
  TightenArgs lists;
  lists.n = n;
  lists.tables = tables;
  lists.offsets = offsets;
  lists.ends = parts.ends;
  lists.lists = {parts.left_keys, parts.left_scores, nullptr};
  lists.keys = parts.lower_keys;
  lists.scores = parts.lower_scores;
  return lists;
}

hkv::Read Find(int64_t n, const int64_t* keys, int64_t* rows) {
  hkv::Read find;
  find.name = "find";
  find.n = static_cast<uint64_t>(n);
  find.keys = Unsigned(keys);
  find.rows = Rows(rows);
  return find;
}

// Lists what left without gaps, and finds what is back: a key of the batch may have had to leave
// for another one before its own turn came.
void ListLeft(DynamicVariable& cache, const Where& where, const Between& parts, int64_t n,
              const int64_t* offsets) {
  const int64_t tables = cache.size();
  Launched(Ends(where, tables, parts.left_counts, parts.ends, parts.scratch), "cache_seek");
  Launched(Tighten(where, Left(parts, n, tables, offsets)), "cache_seek");
  hkv::Table::Run(cache.SegmentsOf(parts.ends), Find(n, parts.lower_keys, parts.again),
                  where.stream);
}

// Rows, status, the rows that left, how many keys have none, and what is between the calls.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> Seek(const SeekArguments& a) {
  const auto variable = SetOf(a.cache);
  const Tensor& keys = a.cache.keys;
  const At<Where> at(a.cache.state);
  const int64_t n = keys.numel(), row_bytes = static_cast<int64_t>(variable->row_bytes());
  const int64_t tables = variable->size(), *offsets = In<int64_t>(a.cache.offsets);
  const Tensor rows = Zeros(at.where, keys, n, aoti_torch_dtype_int64());
  const Tensor status = Zeros(at.where, keys, n, aoti_torch_dtype_uint8());
  const Tensor left = Empty(keys, {n, row_bytes / 4}, aoti_torch_dtype_float32());
  const Tensor count = Empty(keys, int64_t{1}, aoti_torch_dtype_int64());
  const Tensor between = EmptyBytes(keys, Between(n, tables, nullptr).bytes);
  const Between parts(n, tables, between.const_data_ptr());
  if (n > 0) {
    hkv::Write call = FindOrInsert(n, In<int64_t>(keys), In<int64_t>(a.cache.scores),
                                   Out<int64_t>(rows), Out<uint8_t>(status));
    call.pin = a.pin;
    call.evicted_keys = Unsigned(parts.left_keys);
    call.evicted_values = Out<char>(left);
    call.evicted_scores = Unsigned(parts.left_scores);
    call.evicted_count = Unsigned(parts.left_counts);
    Taking(variable->device(),
           [&] { hkv::Table::Run(variable->SegmentsOf(offsets), call, at.where.stream); });
  }
  RefusedArgs refused;
  refused.n = n;
  refused.tables = tables;
  refused.offsets = offsets;
  refused.keys = In<int64_t>(keys);
  refused.scores = In<int64_t>(a.cache.scores);
  refused.rows = In<int64_t>(rows);
  refused.places = parts.places;
  refused.some_keys = parts.some_keys;
  refused.some_scores = a.cache.scores ? parts.some_scores : nullptr;
  refused.ends = parts.some_ends;
  refused.count = Out<int64_t>(count);
  refused.scratch = parts.scratch;
  Launched(Refused(at.where, refused), "cache_seek");
  if (n > 0) {
    Taking(variable->device(), [&] { ListLeft(*variable, at.where, parts, n, offsets); });
  }
  return {rows, status, left, count, between};
}

struct MoveArguments {
  OpArguments& in;
  Tensor rows = in.GetWritten("rows");  // what cache_seek gave, and so the others
  Tensor status = in.GetWritten("status");
  CacheArguments behind{in};  // the same keys; the set behind the cache
  Tensor left = in.GetTensor("left");
  Tensor count = in.GetTensor("count");
  Tensor between = in.GetWritten("between");
};

// What left goes to its rows behind the cache, and new rows of the cache that are behind it come
// up.
void MoveBoth(const MoveArguments& a, DynamicVariable& behind, const Where& where,
              const Between& parts) {
  const int64_t n = a.behind.keys.numel(), *offsets = In<int64_t>(a.behind.offsets);
  const auto row_bytes = static_cast<int64_t>(behind.row_bytes());
  hkv::Write call =
      FindOrInsert(n, parts.lower_keys, parts.lower_scores, parts.lower_rows, nullptr);
  call.verbatim = true;
  hkv::Table::Run(behind.SegmentsOf(parts.ends), call, where.stream);
  hkv::Table::Run(behind.SegmentsOf(offsets), Find(n, In<int64_t>(a.behind.keys), parts.below),
                  where.stream);
  LowerArgs lower;
  lower.lists = Left(parts, n, behind.size(), offsets);
  lower.lists.row_bytes = row_bytes;
  lower.lists.lists.rows = a.left.const_data_ptr();
  lower.to = parts.lower_rows;
  lower.again = parts.again;
  TakeArgs take;
  take.n = n;
  take.row_bytes = row_bytes;
  take.below = parts.below;
  take.rows = In<int64_t>(a.rows);
  take.status = In<uint8_t>(a.status);
  take.now = Out<uint8_t>(a.status);
  Launched(Exchange(where, lower, take), "cache_move");
}

void Move(const MoveArguments& a) {
  const auto behind = SetOf(a.behind);
  const int64_t n = a.behind.keys.numel(), words = static_cast<int64_t>(behind->row_bytes()) / 4;
  CheckVector(a.rows, "rows", ScalarType::Long, n, a.behind.keys);
  CheckVector(a.status, "status", ScalarType::Byte, n, a.behind.keys);
  CheckVector(a.count, "count", ScalarType::Long, 1, a.behind.keys);
  const auto bytes = static_cast<int64_t>(Between(n, behind->size(), nullptr).bytes);
  CheckVector(a.between, "between", ScalarType::Byte, bytes > 0 ? bytes : 1, a.behind.keys);
  Check(a.left.dim() == 2 && a.left.size(0) == n && a.left.size(1) == words &&
            a.left.is_contiguous() && a.left.scalar_type() == ScalarType::Float,
        "left must be a contiguous float32 tensor of shape (", n, ", ", words, "), got ",
        Shape{a.left});
  if (n == 0) return;
  const At<Where> at(a.behind.state);
  const Between parts(n, behind->size(), a.between.const_data_ptr());
  Taking(behind->device(), [&] {
    MoveBoth(a, *behind, at.where, parts);
    const hkv::Write call =
        FindOrInsert(n, parts.some_keys, a.behind.scores ? parts.some_scores : nullptr,
                     parts.some_rows, parts.some_status);
    hkv::Table::Run(behind->SegmentsOf(parts.some_ends), call, at.where.stream);
  });
  PlaceArgs place;
  place.n = n;
  place.places = parts.places;
  place.count = In<int64_t>(a.count);
  place.found_rows = parts.some_rows;
  place.found_status = parts.some_status;
  place.rows = Out<int64_t>(a.rows);
  place.status = Out<uint8_t>(a.status);
  Launched(Place(at.where, place), "cache_move");
}

template <class Library>
void Implement(Library& m) {
  m.impl("cache_seek", &Boxed<SeekArguments, &Seek>);
  m.impl("cache_move", &BoxedVoid<MoveArguments, &Move>);
}

}  // namespace
}  // namespace accel::dynamicemb

STABLE_TORCH_LIBRARY_FRAGMENT(dynamicemb, m) {
  using namespace accel::dynamicemb;
  using accel::Schema;
  m.def(Schema<SeekArguments>(
            "cache_seek", "(Tensor rows, Tensor status, Tensor left, Tensor count, Tensor between)")
            .c_str());
  m.def(Schema<MoveArguments>("cache_move", "()").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CUDA, m) { accel::dynamicemb::Implement(m); }

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CPU, m) { accel::dynamicemb::Implement(m); }
