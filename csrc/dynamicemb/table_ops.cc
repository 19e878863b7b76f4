// File: table_ops.cc
//
// The torch ops on sets of hash tables, which are named by handles: the stable ABI has no classes.
// Scores are the table's unsigned words in int64 tensors.

#include <algorithm>
#include <tuple>
#include <vector>

#include "csrc/dynamicemb/set_ops.h"

namespace accel::dynamicemb {
namespace {

void* StreamOf(const At<Where>& at) { return at.where.stream; }

uint64_t* Words(const Tensor& t) { return reinterpret_cast<uint64_t*>(Out<int64_t>(t)); }
const uint64_t* Words(const MaybeTensor& t) {
  return reinterpret_cast<const uint64_t*>(In<int64_t>(t));
}

// ---- Making and ending

struct CreateArguments {
  OpArguments& in;
  Tensor options = in.GetTensor("options");  // (tables, 6) int64 on the CPU
  int64_t device = in.GetInt("device");
  int64_t threads = in.GetInt("threads");
};

int64_t Create(const CreateArguments& a) {
  Check(a.options.dim() == 2 && a.options.size(1) == 6 && a.options.size(0) > 0 &&
            a.options.scalar_type() == ScalarType::Long && a.options.is_contiguous(),
        "options must be a contiguous int64 tensor of shape (tables, 6), got ", Shape{a.options});
  std::vector<VariableOptions> options(static_cast<size_t>(a.options.size(0)));
  const int64_t* word = In<int64_t>(a.options);
  for (VariableOptions& one : options) {
    one.table.init_capacity = static_cast<uint64_t>(word[0]);
    one.table.max_capacity = static_cast<uint64_t>(word[1]);
    one.table.dim = static_cast<uint32_t>(word[2] / 4);
    one.table.max_hbm_for_vectors = static_cast<uint64_t>(word[3]);
    one.strategy = static_cast<hkv::EvictStrategy>(word[4]);
    one.table.max_load_factor = static_cast<double>(word[5]) / 1e6;
    word += 6;
  }
  return Keep(Taking(a.device, [&] {
    return std::make_shared<DynamicVariable>(options, static_cast<int>(a.device),
                                             static_cast<int>(a.threads));
  }));
}

void BoxedCreate(StableIValue* stack, uint64_t, uint64_t) {
  OpArguments in(stack);
  const CreateArguments arguments{in};
  stack[0] = torch::stable::detail::from(Create(arguments));
}

struct SetArguments {
  OpArguments& in;
  int64_t set = in.GetInt("set");
};

void Destroy(const SetArguments& a) { Drop(a.set); }

// ---- Keys of all tables

struct FindArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");
  Tensor offsets = in.GetTensor("offsets");
  int64_t set = in.GetInt("set");
  Tensor state = in.GetTensor("state");
  bool scored = in.GetBool("scored");
};

std::tuple<Tensor, Tensor> Find(const FindArguments& a) {
  const auto variable = Held(a.set);
  CheckBatch(*variable, a.keys, a.offsets, a.state);
  const At<Where> at(a.state);
  const int64_t n = a.keys.numel();
  const Tensor rows = Zeros(at.where, a.keys, n, aoti_torch_dtype_int64());
  const Tensor scores = Zeros(at.where, a.keys, a.scored ? n : 0, aoti_torch_dtype_int64());
  hkv::Read call;
  call.name = "find";
  call.n = static_cast<uint64_t>(n);
  call.keys = Words(MaybeTensor(a.keys));
  call.rows = reinterpret_cast<void**>(Out<int64_t>(rows));
  call.scores = a.scored ? Words(scores) : nullptr;
  if (n > 0) {
    hkv::Table::Run(variable->SegmentsOf(In<int64_t>(a.offsets)), call, StreamOf(at));
  }
  return {rows, scores};
}

// What `mode` of table_set_write is.
constexpr hkv::WriteMode kModes[] = {hkv::WriteMode::kFindOrInsert, hkv::WriteMode::kInsertOrAssign,
                                     hkv::WriteMode::kInsertAndEvict, hkv::WriteMode::kAssign,
                                     hkv::WriteMode::kErase};
constexpr const char* kModeNames[] = {"find_or_insert", "insert_or_assign", "insert, evicting",
                                      "assign", "erase"};

struct WriteArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");
  Tensor offsets = in.GetTensor("offsets");
  int64_t set = in.GetInt("set");
  Tensor state = in.GetTensor("state");
  MaybeTensor values = in.GetMaybeTensor("values");  // (n, words) float32
  MaybeTensor scores = in.GetMaybeTensor("scores");  // (n) int64
  int64_t mode = in.GetInt("mode");
  bool verbatim = in.GetBool("verbatim");
  bool pin = in.GetBool("pin");
  bool report = in.GetBool("report");
};

using Written = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Written WriteKeys(const WriteArguments& a) {
  const auto variable = Held(a.set);
  CheckBatch(*variable, a.keys, a.offsets, a.state);
  Check(a.mode >= 0 && a.mode < 5, "mode must be from 0 to 4, got ", a.mode);
  const At<Where> at(a.state);
  const int64_t n = a.keys.numel(), row_bytes = static_cast<int64_t>(variable->row_bytes());
  const int32_t int64 = aoti_torch_dtype_int64();
  const bool finds = a.mode == 0;
  hkv::Write call;
  call.name = kModeNames[a.mode];
  call.mode = kModes[a.mode];
  call.n = static_cast<uint64_t>(n);
  call.verbatim = a.verbatim;
  call.pin = a.pin;
  call.keys = Words(MaybeTensor(a.keys));
  if (a.scores) CheckVector(*a.scores, "scores", ScalarType::Long, n, a.state);
  call.scores = Words(a.scores);
  if (a.values) {
    Check(a.values->dim() == 2 && a.values->size(0) == n && a.values->is_contiguous() &&
              a.values->scalar_type() == ScalarType::Float && a.values->size(1) * 4 == row_bytes &&
              a.values->is_cuda() == a.state.is_cuda(),
          "values must be a contiguous float32 tensor of shape (", n, ", ", row_bytes / 4,
          ") on the device of state, got ", TypeName(a.values->scalar_type()), " ",
          Shape{*a.values});
    call.values = const_cast<char*>(In<char>(*a.values));
    call.pitch = static_cast<uint64_t>(row_bytes);
  }
  const Tensor rows = Zeros(at.where, a.keys, finds ? n : 0, int64);
  const Tensor status = Zeros(at.where, a.keys, n, aoti_torch_dtype_uint8());
  const bool evicts = a.report || a.mode == 2;
  const int64_t listed = evicts ? n : 0;
  const Tensor evicted_keys = Empty(a.keys, listed, int64);
  const Tensor evicted_values = Empty(a.keys, {listed, row_bytes / 4}, aoti_torch_dtype_float32());
  const Tensor evicted_scores = Empty(a.keys, listed, int64);
  const Tensor evicted_count = Zeros(at.where, a.keys, evicts ? variable->size() : 0, int64);
  if (finds) call.rows = reinterpret_cast<void**>(Out<int64_t>(rows));
  call.status = Out<uint8_t>(status);
  if (evicts) {
    call.evicted_keys = Words(evicted_keys);
    call.evicted_values = Out<char>(evicted_values);
    call.evicted_scores = Words(evicted_scores);
    call.evicted_count = Words(evicted_count);
  }
  if (n > 0) {
    Taking(variable->device(), [&] {
      hkv::Table::Run(variable->SegmentsOf(In<int64_t>(a.offsets)), call, StreamOf(at));
    });
  }
  return {rows, status, evicted_keys, evicted_values, evicted_scores, evicted_count};
}

struct UnlockArguments {
  OpArguments& in;
  Tensor keys = in.GetTensor("keys");
  Tensor offsets = in.GetTensor("offsets");
  int64_t set = in.GetInt("set");
  Tensor state = in.GetTensor("state");
};

// In every step with a prefetch: it makes no tensor.
void Unlock(const UnlockArguments& a) {
  const auto variable = Held(a.set);
  CheckBatch(*variable, a.keys, a.offsets, a.state);
  if (a.keys.numel() == 0) return;
  const At<Where> at(a.state);
  hkv::Write call;
  call.name = "unlock_keys";
  call.mode = hkv::WriteMode::kUnlock;
  call.n = static_cast<uint64_t>(a.keys.numel());
  call.keys = Words(MaybeTensor(a.keys));
  hkv::Table::Run(variable->SegmentsOf(In<int64_t>(a.offsets)), call, StreamOf(at));
}

// ---- One table

struct ExportArguments {
  OpArguments& in;
  Tensor state = in.GetTensor("state");
  int64_t set = in.GetInt("set");
  int64_t table = in.GetInt("table");
  int64_t begin = in.GetInt("begin");
  int64_t end = in.GetInt("end");
  int64_t least_score = in.GetInt("least_score");
  bool with_values = in.GetBool("with_values");
};

std::tuple<Tensor, Tensor, Tensor, Tensor> ExportRows(const ExportArguments& a) {
  const auto variable = Held(a.set);
  CheckSet(*variable, a.state);
  const hkv::Table& table = variable->At(a.table, "table_set_export");
  Check(a.begin >= 0 && a.begin <= a.end, "begin and end must ascend, got ", a.begin, " and ",
        a.end);
  const At<Where> at(a.state);
  const int64_t n = a.end - a.begin, words = static_cast<int64_t>(table.row_bytes()) / 4;
  const int32_t int64 = aoti_torch_dtype_int64();
  const Tensor keys = Empty(a.state, n, int64), scores = Empty(a.state, n, int64);
  const Tensor values = Empty(a.state, {a.with_values ? n : 0, words}, aoti_torch_dtype_float32());
  const Tensor count = Zeros(at.where, a.state, 1, int64);
  hkv::Export call;
  call.begin = static_cast<uint64_t>(a.begin);
  call.end = static_cast<uint64_t>(a.end);
  call.predicate.score_min = static_cast<uint64_t>(a.least_score);
  call.keys = Words(keys);
  call.values = a.with_values ? Out<char>(values) : nullptr;
  call.scores = Words(scores);
  call.count = Words(count);
  table.Run(call, StreamOf(at));
  return {keys, values, scores, count};
}

struct SizesArguments {
  OpArguments& in;
  Tensor state = in.GetTensor("state");
  int64_t set = in.GetInt("set");
};

// (tables, 4) int64 on the CPU: size, capacity, max_capacity, locked rows. Waits for the stream.
Tensor Sizes(const SizesArguments& a) {
  const auto variable = Held(a.set);
  CheckSet(*variable, a.state);
  const At<Where> at(a.state);
  Tensor out = torch::stable::empty({variable->size(), 4}, ScalarType::Long);
  int64_t* word = Out<int64_t>(out);
  for (int64_t t = 0; t < variable->size(); ++t, word += 4) {
    const hkv::Table& table = variable->At(t, "table_set_sizes");
    word[0] = static_cast<int64_t>(table.size(StreamOf(at)));
    word[1] = static_cast<int64_t>(table.capacity());
    word[2] = static_cast<int64_t>(table.max_capacity());
    word[3] = static_cast<int64_t>(table.locked(StreamOf(at)));
  }
  return out;
}

struct ClearArguments {
  OpArguments& in;
  Tensor state = in.GetTensor("state");
  int64_t set = in.GetInt("set");
  int64_t table = in.GetInt("table");
};

void Clear(const ClearArguments& a) {
  const auto variable = Held(a.set);
  CheckSet(*variable, a.state);
  const At<Where> at(a.state);
  variable->At(a.table, "table_set_clear").clear(StreamOf(at));
}

struct ReserveArguments {
  OpArguments& in;
  Tensor state = in.GetTensor("state");
  int64_t set = in.GetInt("set");
  int64_t table = in.GetInt("table");
  int64_t capacity = in.GetInt("capacity");
};

void Reserve(const ReserveArguments& a) {
  const auto variable = Held(a.set);
  CheckSet(*variable, a.state);
  Check(a.capacity >= 0, "capacity must be >= 0, got ", a.capacity);
  const At<Where> at(a.state);
  hkv::Table& table = variable->At(a.table, "table_set_reserve");
  Taking(variable->device(),
         [&] { table.reserve(static_cast<uint64_t>(a.capacity), StreamOf(at)); });
}

template <class Library>
void Implement(Library& m) {
  m.impl("table_set_find", &Boxed<FindArguments, &Find>);
  m.impl("table_set_write", &Boxed<WriteArguments, &WriteKeys>);
  m.impl("table_set_unlock", &BoxedVoid<UnlockArguments, &Unlock>);
  m.impl("table_set_export", &Boxed<ExportArguments, &ExportRows>);
  m.impl("table_set_sizes", &Boxed<SizesArguments, &Sizes>);
  m.impl("table_set_clear", &BoxedVoid<ClearArguments, &Clear>);
  m.impl("table_set_reserve", &BoxedVoid<ReserveArguments, &Reserve>);
}

}  // namespace
}  // namespace accel::dynamicemb

STABLE_TORCH_LIBRARY_FRAGMENT(dynamicemb, m) {
  using namespace accel::dynamicemb;
  using accel::Schema;
  using accel::Writing;
  m.def(Schema<CreateArguments>("table_set_create", "int").c_str());
  m.def(Schema<SetArguments>("table_set_destroy", "()").c_str());
  m.def(Schema<FindArguments>("table_set_find", "(Tensor rows, Tensor scores)").c_str());
  m.def(Writing<WriteArguments>(
            "table_set_write",
            "(Tensor rows, Tensor status, Tensor evicted_keys, Tensor evicted_values, "
            "Tensor evicted_scores, Tensor evicted_count)")
            .c_str());
  m.def(Writing<UnlockArguments>("table_set_unlock", "()").c_str());
  m.def(Schema<ExportArguments>("table_set_export",
                                "(Tensor keys, Tensor values, Tensor scores, Tensor count)")
            .c_str());
  m.def(Schema<SizesArguments>("table_set_sizes", "Tensor").c_str());
  m.def(Writing<ClearArguments>("table_set_clear", "()").c_str());
  m.def(Writing<ReserveArguments>("table_set_reserve", "()").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CUDA, m) { accel::dynamicemb::Implement(m); }

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CPU, m) {
  accel::dynamicemb::Implement(m);
  m.impl("table_set_create", &accel::dynamicemb::BoxedCreate);
}

STABLE_TORCH_LIBRARY_IMPL(dynamicemb, CompositeExplicitAutograd, m) {
  using namespace accel::dynamicemb;
  m.impl("table_set_destroy", &accel::BoxedVoid<SetArguments, &Destroy>);
}
