// File: {name}.cu
//
// The lookup of one type of rows, written from lookup_inst.cu.tpl and instances.bzl.
#include "csrc/dynamicemb/host_lookup.cuh"
#include "csrc/dynamicemb/lookup.cuh"

namespace accel::dynamicemb {

template <>
int LookupOf<{TYPE}>(const Where& where, const Bags& bags, const RowSource& source, void* out) {
  const int64_t n = bags.pooling == Pooling::kNone ? bags.n : bags.features * bags.batch;
  if (!where.cuda) {
    LookupOnHost<{TYPE}>(where.threads, n, bags, source, out);
    return cudaSuccess;
  }
  // Features begin at multiples of the stride's common divisor only if the caller says so.
  const bool whole = bags.whole && WholeGroups(out, bags.out_stride, bags.out_dtype);
  return Gather(where, n, GatherBody<{TYPE}>{bags, source, out, whole});
}

}  // namespace accel::dynamicemb
