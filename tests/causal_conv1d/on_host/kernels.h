// File: kernels.h
//
// Every kernel by name, to be run on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "csrc/common/host_block.h"

namespace conv1d_test {

struct HostKernel {
  const char* name;
  int threads;
  size_t args_bytes;
  void (*run)(const void* args, int64_t blocks, const accel::HostMachine& machine);
};

// Null if there is none of that name.
const HostKernel* HostKernelNamed(const std::string& name);

// Starts a kernel in the way that the test is about: see the files that define it.
void Start(const std::string& name, int64_t blocks, const void* args, size_t args_bytes,
           const accel::HostMachine& machine);

}  // namespace conv1d_test
