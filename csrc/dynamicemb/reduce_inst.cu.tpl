// File: {name}.cu
//
// The backward for one type of weights, written from reduce_inst.cu.tpl and instances.bzl.
#include "csrc/dynamicemb/host_reduce.cuh"
#include "csrc/dynamicemb/reduce_kernels.cuh"

namespace accel::dynamicemb {

template <int kGroups, int kOptimizer>
int Launch{TYPE}(const Where& where, const ReduceParams<{TYPE}>& p) {
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const auto chunks = CeilDiv<int64_t>(p.n, kChunk);
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(chunks, kWarps));
  if (const cudaError_t code = cudaMemsetAsync(p.span_count, 0, 4, stream)) return code;
  ReduceKernel<{TYPE}, kGroups, kOptimizer><<<blocks, kBlock, 0, stream>>>(p);
  if (const cudaError_t code = cudaGetLastError()) return code;
  constexpr unsigned kEnough = 264;
  CombineKernel<{TYPE}, kGroups><<<Min(blocks, kEnough), kBlock, 0, stream>>>(p);
  return cudaGetLastError();
}

int Launch{TYPE}(const Where& where, const ReduceParams<{TYPE}>& p, int64_t max_dim) {
  if (max_dim > 512) return Launch{TYPE}<8, -1>(where, p);
  if (max_dim > 128) return Launch{TYPE}<4, -1>(where, p);
  if constexpr (sizeof({TYPE}::Real) == 4) {
    const Optimizer optimizer = p.finish.update.optimizer;
    if (p.finish.sums == nullptr && optimizer == Optimizer::kSgd) {
      return Launch{TYPE}<1, static_cast<int>(Optimizer::kSgd)>(where, p);
    }
    if (p.finish.sums == nullptr && optimizer == Optimizer::kAdam) {
      return Launch{TYPE}<1, static_cast<int>(Optimizer::kAdam)>(where, p);
    }
  }
  return Launch{TYPE}<1, -1>(where, p);
}

template <>
int ReduceOf<{TYPE}>(const Where& where, const ReduceArgs& args, int64_t max_dim) {
  const ReduceParams<{TYPE}> p = ParamsOf<{TYPE}>(args, max_dim);
  if (!where.cuda) {
    ReduceOnHost(where.threads, p, max_dim);
    return cudaSuccess;
  }
  return Launch{TYPE}(where, p, max_dim);
}

template <>
int UpdateOf<{TYPE}>(const Where& where, const ReduceArgs& a) {
  using Real = {TYPE}::Real;
  const UpdateBody<{TYPE}> body = {a.source,
                                   {a.optimizer, a.decay, a.stochastic, a.state},
                                   static_cast<const Real*>(a.sums),
                                   a.sum_stride};
  const int64_t n = a.bags.n;
  if (n == 0) return cudaSuccess;
  if (!where.cuda) {
    UpdateOnHost(where.threads, n, *a.hyper, body);
    return cudaSuccess;
  }
  UpdateKernel<<<static_cast<unsigned>(CeilDiv<int64_t>(n, kWarps)), kBlock, 0,
                 static_cast<cudaStream_t>(where.stream)>>>(n, a.hyper, body);
  return cudaGetLastError();
}

}  // namespace accel::dynamicemb
