// The kernels of instances.bzl as this machine runs them, and those of double beside them.
#include "csrc/causal_conv1d/backward.cuh"
#include "csrc/causal_conv1d/backward_sum.cuh"
#include "csrc/causal_conv1d/packed.cuh"
#include "csrc/causal_conv1d/update.cuh"
#include "tests/causal_conv1d/on_host/kernels.h"

#define X(name, Args, threads, unit) extern "C" void name(accel::conv1d::Args);
{TABLE}
#undef X

#define DOUBLES(taps)                                                                             \
  Z(forward_first, ForwardArgs, (ForwardFirst<double, taps, false>), taps)                        \
  Z(forward_first_seq, ForwardArgs, (ForwardFirst<double, taps, true>), taps)                     \
  Z(forward_last, ForwardArgs, (ForwardLast<double, taps, false>), taps)                          \
  Z(forward_last_seq, ForwardArgs, (ForwardLast<double, taps, true>), taps)                       \
  Z(backward_first, BackwardArgs, (BackwardFirst<double, taps, false>), taps)                     \
  Z(backward_first_seq, BackwardArgs, (BackwardFirst<double, taps, true>), taps)                  \
  Z(backward_last, BackwardArgs, (BackwardLast<double, taps, false>), taps)                       \
  Z(backward_last_seq, BackwardArgs, (BackwardLast<double, taps, true>), taps)                    \
  Z(packed, PackedArgs, (Packed<double, taps>), taps)                                             \
  Z(update, UpdateArgs, (Update<double, taps>), taps)

#define UNPACKED(...) __VA_ARGS__
#define Z(kind, Args, call, taps) \
  static void conv1d_##kind##_fp64_w##taps(accel::conv1d::Args a) { accel::conv1d::UNPACKED call(a); }
DOUBLES(4)
DOUBLES(8)
static void conv1d_backward_sum_fp64(accel::conv1d::SumArgs a) {
  accel::conv1d::BackwardSum<double>(a);
}

namespace conv1d_test {

using namespace accel::conv1d;  // NOLINT(build/namespaces): of this file alone

template <class Args>
static void Run(void (*kernel)(Args), const void* args, int64_t blocks, int threads,
                const accel::HostMachine& machine) {
  accel::RunOnHost(kernel, *static_cast<const Args*>(args), blocks, threads, machine);
}

#define ENTRY(name, Args, threads)                                                      \
  {#name, threads, sizeof(Args),                                                        \
   [](const void* args, int64_t blocks, const accel::HostMachine& machine) {            \
     Run<Args>(&name, args, blocks, threads, machine);                                  \
   }},
#define X(name, Args, threads, unit) ENTRY(name, Args, threads)
#undef Z
#define Z(kind, Args, call, taps) ENTRY(conv1d_##kind##_fp64_w##taps, Args, kThreads)

const HostKernel kHostKernels[] = {
{TABLE}
    DOUBLES(4) DOUBLES(8) ENTRY(conv1d_backward_sum_fp64, SumArgs, kSumThreads)};

const HostKernel* HostKernelNamed(const std::string& name) {
  for (const HostKernel& kernel : kHostKernels) {
    if (name == kernel.name) return &kernel;
  }
  return nullptr;
}

}  // namespace conv1d_test
