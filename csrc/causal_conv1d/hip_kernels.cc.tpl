// Which source holds which kernel, from instances.bzl: its code objects lie under the source's name.
#include "csrc/causal_conv1d/hip_launcher.h"

namespace accel::conv1d {

#define X(name, Args, threads, unit) {#name, #unit},
const HipKernel kHipKernels[] = {
{TABLE}
    {nullptr, nullptr}};

}  // namespace accel::conv1d
