// File: bucketize.cu
//
// The occurrences of a batch dealt out to the ranks of a group, each bag in its order: what rank 0
// gets, feature by feature and sample by sample, then rank 1 ... Few keys a bag; deal_keys.cu does
// it for many.
#include "csrc/common/scratch.h"
#include "csrc/dynamicemb/deal.h"
#include "csrc/dynamicemb/scan.cuh"

namespace accel::dynamicemb {

// Pass 0 counts, pass 1 puts: a bag is one thread's.
struct DealBody {
  BucketizeArgs a;
  int64_t* next;  // (world * bags), where the next key of a bag goes
  int pass;

  ACCEL_HD void operator()(int64_t bag) const {
    const int64_t bags = a.features * a.batch, feature = bag / a.batch;
    const auto dist = static_cast<Dist>(a.dist[feature]);
    const auto block = static_cast<uint64_t>(a.block_sizes ? a.block_sizes[feature] : 0);
    for (int64_t r = 0; r < a.world; ++r) {
      if (pass == 0) a.new_lengths[r * bags + bag] = 0;
      if (pass == 1) next[r * bags + bag] = a.new_offsets[r * bags + bag];
    }
    for (int64_t i = a.offsets[bag]; i < a.offsets[bag + 1]; ++i) {
      const Dealt to =
          Deal(dist, static_cast<uint64_t>(a.keys[i]), static_cast<uint64_t>(a.world), block);
      if (pass == 0) {
        ++a.new_lengths[to.rank * bags + bag];
        continue;
      }
      const int64_t at = next[to.rank * bags + bag]++;
      a.new_keys[at] = to.key;
      a.permute[i] = at;
      if (a.weights != nullptr) a.new_weights[at] = a.weights[i];
    }
  }
};

struct OffsetsBody {
  const int64_t* lengths;
  int64_t* offsets;
  ACCEL_HD int64_t Value(int64_t i) const { return lengths[i]; }
  ACCEL_HD void Store(int64_t i, int64_t before, int64_t) const { offsets[i] = before; }
};

size_t BucketizeScratch(const BucketizeArgs& a) {
  const int64_t parts = a.world * a.features * a.batch;
  return AlignScratch(static_cast<size_t>(8 * parts)) + ScanScratch(parts);
}

int Bucketize(const Where& where, const BucketizeArgs& a) {
  const int64_t bags = a.features * a.batch, parts = a.world * bags;
  auto* const next = static_cast<int64_t*>(a.scratch);
  void* const sums = static_cast<char*>(a.scratch) + AlignScratch(static_cast<size_t>(8 * parts));
  if (const int code = Each(where, bags, DealBody{a, next, 0})) return code;
  if (const int code = Scan(where, parts, OffsetsBody{a.new_lengths, a.new_offsets}, sums)) {
    return code;
  }
  return Each(where, bags, DealBody{a, next, 1});
}

}  // namespace accel::dynamicemb
