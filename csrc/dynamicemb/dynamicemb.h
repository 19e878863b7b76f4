// File: dynamicemb.h
//
// What the kernels of dynamic embeddings take and do, on raw pointers: no torch, no Python.
//
// A row of a table is bytes: [weights | state arrays | step | stamp]. Each array begins on 16
// bytes, so every one is read four values at a time; RowInfo says where. Rows are named by their
// addresses, which lie in GPU memory, pinned host memory or host memory; 0 names no row.
//
// Every function runs on the GPU (Where::cuda, on a stream) or on the host, from the same source,
// and returns a cudaError_t (0 on the host). Counts that depend on values stay where the data is:
// arrays are as long as the batch, and `offsets` says how much of them is meant.
#pragma once

#include <cstddef>
#include <cstdint>

namespace accel::dynamicemb {

struct Where {
  bool cuda = false;
  void* stream = nullptr;  // cudaStream_t
  int threads = 1;         // of the host
};

enum class DType : int32_t { kFloat = 0, kHalf = 1, kBFloat16 = 2, kDouble = 3 };
enum class InitMode : int64_t { kNormal = 0, kTruncatedNormal, kUniform, kConstant, kDebug };
enum class Optimizer : int32_t { kSgd = 0, kAdam, kAdaGrad, kRowwiseAdaGrad, kFtrl };
enum class Pooling : int32_t { kSum = 0, kMean = 1, kNone = 2 };
enum class Dist : int32_t { kContinuous = 0, kRoundRobin = 1, kHashRoundRobin = 2 };

// One logical table, as eight-byte words: a row of the tensor `infos`.
struct RowInfo {
  int64_t dim;           // weights of a row
  int64_t row_bytes;     // multiple of 16
  int64_t state_offset;  // bytes
  int64_t states;        // arrays of state: 0, 1 or 2
  int64_t state_len;     // values of each, a multiple of 4
  int64_t step_offset;   // bytes, of a uint32; -1: none
  int64_t stamp_offset;  // bytes, of a uint64; -1: none
  int64_t seed;          // of the first row of a key
  int64_t init_mode;     // InitMode
  // kNormal and kTruncatedNormal: mean, deviation, and the erf of both ends; kUniform: ends;
  // kConstant: the value.
  double init[4];
  double initial_state[2];
  double eval_value;  // of a missing key in evaluation
};
constexpr int kInfoWords = sizeof(RowInfo) / 8;

// Words of the tensor that stands for a set of tables: how many updates there were, and from the
// second on how often a key had each status of the hash table.
constexpr int kStateWords = 8;

// Numbers of the optimizers, as a row of doubles in the memory of the tables: captured graphs see
// new ones.
struct Hyper {
  double lr, eps, beta1, beta2, weight_decay;
  double l1, l2, ftrl_beta, power;  // FTRL
  double max_norm;                  // of a row after the update; 0: none
  double clip;                      // of each value of an incoming gradient; 0: none
};
constexpr int kHyperWords = sizeof(Hyper) / 8;

enum class Decay : int32_t { kNone = 0, kL2 = 1, kDecoupled = 2 };

// ---- Unique keys

// Keys in `tables` segments: those of table t are keys[offsets[t]] ... keys[offsets[t + 1] - 1].
struct UniqueArgs {
  int64_t n = 0, tables = 0;
  const int64_t* keys = nullptr;
  const int64_t* offsets = nullptr;      // (tables + 1)
  const int64_t* frequencies = nullptr;  // (n) or null: each key counts once
  int64_t* unique = nullptr;             // (n) in the order of first occurrence, table by table
  int32_t* inverse = nullptr;            // (n)
  int64_t* unique_offsets = nullptr;     // (tables + 1)
  int64_t* counts = nullptr;             // (n) or null: sums of frequencies
  void* scratch = nullptr;
};
size_t UniqueScratch(int64_t n, int64_t tables);
int Unique(const Where& where, const UniqueArgs& args);

// ---- Lookup

// What is the same in forward and backward: which occurrence is in which bag of which feature.
struct Bags {
  Pooling pooling = Pooling::kNone;
  int64_t n = 0;                           // occurrences
  int64_t batch = 0, features = 0;         // features * batch bags, feature by feature
  const int64_t* offsets = nullptr;        // (features * batch + 1); kNone: null
  const int32_t* feature_table = nullptr;  // (features) the table of each
  const int64_t* dim_offsets = nullptr;    // (features + 1) columns in a pooled row; kNone: null
  const void* weights = nullptr;           // (n) of float (double for kDouble), or null
  int64_t out_stride = 0;                  // values of an output row
  bool whole = false;                      // dims, columns and the stride are multiples of four
  DType out_dtype = DType::kFloat;
};

struct RowSource {
  int64_t tables = 0;
  const RowInfo* infos = nullptr;        // (tables)
  const int64_t* row_offsets = nullptr;  // (tables + 1) of rows and keys
  const int64_t* rows = nullptr;         // addresses; 0: missing
  const int64_t* keys = nullptr;         // of the rows
  const int32_t* inverse = nullptr;      // (n) occurrence -> row; null: the same number
  DType dtype = DType::kFloat;           // of weights
  bool initialize = true;                // a missing key reads as its first row, not eval_value
};

// Writes `out`: kNone (n, out_stride), else (batch, out_stride).
int LookupForward(const Where& where, const Bags& bags, const RowSource& source, void* out);

// weight_grads[i] = <gradient of the bag of i, row of i>, divided by the bag's length for kMean.
int WeightGrads(const Where& where, const Bags& bags, const RowSource& source, const void* grads,
                const int32_t* bag_of, void* weight_grads);

// bag_of[i]: the bag of occurrence i.
int ExpandBags(const Where& where, const Bags& bags, int32_t* bag_of);

// ---- First rows and state

struct InitRowsArgs {
  int64_t n = 0, tables = 0;
  const RowInfo* infos = nullptr;
  const int64_t* row_offsets = nullptr;  // (tables + 1)
  const int64_t* rows = nullptr;         // (n) addresses
  const int64_t* keys = nullptr;         // (n)
  const uint8_t* status = nullptr;       // (n) of the hash table; 2 and 3: the row is new and is
                                         // written; null: every row is
  int64_t* counts = nullptr;             // (6) how often each status was, or null
  uint64_t stamp = 0;                    // written to rows of tables that have one, new or not
  DType dtype = DType::kFloat;
};
int InitRows(const Where& where, const InitRowsArgs& args);

// ---- Backward

// Occurrences sorted by row, stably: ids[p] = inverse[order[p]], and starts[u] the first p of u
// (host only; null on the GPU).
struct SortArgs {
  int64_t n = 0;
  const int32_t* inverse = nullptr;
  int32_t *ids = nullptr, *order = nullptr;  // (n)
  void* scratch = nullptr;
  size_t scratch_bytes = 0;
};
size_t SortScratch(const Where& where, int64_t n);
int SortByRow(const Where& where, const SortArgs& args);

struct ReduceArgs {
  Bags bags;
  RowSource source;                 // rows are read and written by Update
  const void* grads = nullptr;      // as `out` of the forward
  const int32_t* bag_of = nullptr;  // (n); kNone: null
  const int32_t *ids = nullptr, *order = nullptr;
  const Hyper* hyper = nullptr;
  Optimizer optimizer = Optimizer::kSgd;
  Decay decay = Decay::kNone;
  bool stochastic = false;         // rounding of 16-bit weights
  const int64_t* state = nullptr;  // (1) counts updates: noise of the rounding
  void* sums = nullptr;            // (n, sum_stride) float or double; null: rows are updated
  int64_t sum_stride = 0;
  void* scratch = nullptr;
};
size_t ReduceScratch(const Where& where, const ReduceArgs& args, int64_t max_dim);
int Reduce(const Where& where, const ReduceArgs& args, int64_t max_dim);

// Updates rows by sums that Reduce gave.
int Update(const Where& where, const ReduceArgs& args);

// ++*count, in the order of the stream.
int AddOne(const Where& where, int64_t* count);

// Bytes between rows and a tensor (n, bytes): into `data` if `load`, else to the rows that are
// chosen (null: all). Row 0 reads as zeros and takes nothing.
int CopyRows(const Where& where, int64_t n, const int64_t* rows, void* data, int64_t bytes,
             bool load, const uint8_t* chosen);

// ---- Index calculation

// out[i] = the segment of i: offsets (segments + 1).
int ExpandIds(const Where& where, int64_t n, int64_t segments, const int64_t* offsets,
              int32_t* out);
// The indices (or the inputs at them) whose flag is set, in order; count (1).
size_t SelectScratch(int64_t n);
int Select(const Where& where, int64_t n, const bool* flags, const int64_t* inputs, int64_t* out,
           int64_t* count, void* scratch);

struct BucketizeArgs {
  int64_t n = 0, features = 0, batch = 0, world = 1;
  const int64_t* keys = nullptr;         // (n)
  const int64_t* offsets = nullptr;      // (features * batch + 1)
  const int32_t* dist = nullptr;         // (features) Dist
  const int64_t* block_sizes = nullptr;  // (features) kContinuous: keys of a rank
  const float* weights = nullptr;        // (n) or null
  int64_t* new_lengths = nullptr;        // (world * features * batch)
  int64_t* new_offsets = nullptr;        // (world * features * batch + 1)
  int64_t* new_keys = nullptr;           // (n)
  float* new_weights = nullptr;          // (n) or null
  int64_t* permute = nullptr;            // (n): where occurrence i went
  void* scratch = nullptr;
};
size_t BucketizeScratch(const BucketizeArgs& args);
int Bucketize(const Where& where, const BucketizeArgs& args);

}  // namespace accel::dynamicemb
