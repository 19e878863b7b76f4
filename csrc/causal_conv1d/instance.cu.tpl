// Kernels of causal convolution, each a row of instances.bzl.
#include "csrc/causal_conv1d/{HEADER}.cuh"

namespace accel::conv1d {

{KERNELS}

}  // namespace accel::conv1d
