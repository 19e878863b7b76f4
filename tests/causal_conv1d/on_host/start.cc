// File: start.cc
//
// Kernels started on this machine.
#include <stdexcept>

#include "tests/causal_conv1d/on_host/kernels.h"

namespace conv1d_test {

void Start(const std::string& name, int64_t blocks, const void* args, size_t args_bytes,
           const accel::HostMachine& machine) {
  const HostKernel* kernel = HostKernelNamed(name);
  if (kernel == nullptr) throw std::runtime_error("there is no kernel " + name);
  if (kernel->args_bytes != args_bytes) throw std::runtime_error(name + " takes other arguments");
  kernel->run(args, blocks, machine);
}

}  // namespace conv1d_test
