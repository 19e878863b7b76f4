// File: hip_launcher.h
//
// Launches on AMD GPUs, with nothing of ROCm at hand when this is built or loaded: the runtime is
// looked up when the first kernel starts, and is the one that PyTorch has loaded.
#pragma once

#include <cstdint>

#include "csrc/causal_conv1d/launch.h"

namespace accel::conv1d {

// A kernel and the source that holds it.
struct HipKernel {
  const char *name, *unit;
};

extern const HipKernel kHipKernels[];  // the last one is null

// Whether this process has a PyTorch for ROCm, whose "cuda" devices are AMD GPUs.
bool OnHip();

// Starts so many blocks on a stream of the current device. Throws where there is no runtime, no
// code object for the GPU, or where a call of the runtime fails.
void LaunchHip(const Entry& entry, int64_t blocks, const void* args, void* stream);

// Compute units of the current device.
int HipProcessors();

}  // namespace accel::conv1d
