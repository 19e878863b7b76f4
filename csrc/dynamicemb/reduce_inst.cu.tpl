// File: {name}.cu
//
// The backward for one type of weights, written from reduce_inst.cu.tpl and instances.bzl.
#include "csrc/dynamicemb/reduce.cuh"

namespace accel::dynamicemb {

template <int kGroups>
int Launch{TYPE}(const Where& where, const ReduceParams<{TYPE}>& p) {
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const auto chunks = CeilDiv<int64_t>(p.n, kChunk);
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(chunks, kWarps));
  ReduceKernel<{TYPE}, kGroups><<<blocks, kBlock, 0, stream>>>(p);
  if (const cudaError_t code = cudaGetLastError()) return code;
  CombineKernel<{TYPE}, kGroups><<<blocks, kBlock, 0, stream>>>(p);
  return cudaGetLastError();
}

template <>
int ReduceOf<{TYPE}>(const Where& where, const ReduceArgs& args, int64_t max_dim) {
  const ReduceParams<{TYPE}> p = ParamsOf<{TYPE}>(args, max_dim);
  if (!where.cuda) {
    HostReduce(where, p, max_dim);
    return cudaSuccess;
  }
  if (max_dim <= 128) return Launch{TYPE}<1>(where, p);
  return max_dim <= 512 ? Launch{TYPE}<4>(where, p) : Launch{TYPE}<8>(where, p);
}

template <>
int UpdateOf<{TYPE}>(const Where& where, const ReduceArgs& a) {
  using Real = {TYPE}::Real;
  const RowUpdate<{TYPE}> update = {a.optimizer, a.decay, a.stochastic, a.hyper, a.state};
  return EachTeam(where, a.bags.n, UpdateBody<{TYPE}>{a.source, update,
                                                      static_cast<const Real*>(a.sums),
                                                      a.sum_stride});
}

}  // namespace accel::dynamicemb
