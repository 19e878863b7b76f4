// File: {name}.cu
//
// The backward for one type of weights, written from reduce_inst.cu.tpl and instances.bzl.
#include "csrc/dynamicemb/host_reduce.cuh"
#include "csrc/dynamicemb/reduce_quickly.cuh"

namespace accel::dynamicemb {

template <int kGroups, class Kernel>
int Launch{TYPE}(const Where& where, const ReduceParams<{TYPE}>& p, Kernel kernel, int block) {
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const auto chunks = CeilDiv<int64_t>(p.n, kChunk);
  const auto blocks = [&](int threads) {
    return static_cast<unsigned>(CeilDiv<int64_t>(chunks, threads / kWarpSize));
  };
  if (const cudaError_t code = cudaMemsetAsync(p.span_count, 0, 4, stream)) return code;
  kernel<<<blocks(block), block, 0, stream>>>(p);
  if (const cudaError_t code = cudaGetLastError()) return code;
  constexpr unsigned kEnough = 396;
  CombineKernel<{TYPE}, kGroups><<<Min(blocks(kBlock), kEnough), kBlock, 0, stream>>>(p);
  return cudaGetLastError();
}

template <int kOptimizer>
int LaunchQuick{TYPE}(const Where& where, const ReduceParams<{TYPE}>& p) {
  return Launch{TYPE}<1>(where, p, QuickReduceKernel<{TYPE}, kOptimizer>, kQuickBlock);
}

int Launch{TYPE}(const Where& where, const ReduceParams<{TYPE}>& p, int64_t max_dim) {
  if (max_dim > 512) return Launch{TYPE}<8>(where, p, ReduceKernel<{TYPE}, 8>, kBlock);
  if (max_dim > 128) return Launch{TYPE}<4>(where, p, ReduceKernel<{TYPE}, 4>, kBlock);
  if constexpr (sizeof({TYPE}::Real) == 4) {
    const Optimizer optimizer = p.finish.update.optimizer;
    if (p.finish.sums != nullptr) return LaunchQuick{TYPE}<-1>(where, p);
    if (optimizer == Optimizer::kSgd) {
      return LaunchQuick{TYPE}<static_cast<int>(Optimizer::kSgd)>(where, p);
    }
    if (optimizer == Optimizer::kAdam) {
      return LaunchQuick{TYPE}<static_cast<int>(Optimizer::kAdam)>(where, p);
    }
    return LaunchQuick{TYPE}<-1>(where, p);
  } else {
    return Launch{TYPE}<1>(where, p, ReduceKernel<{TYPE}, 1>, kBlock);
  }
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
