// File: list_entries.cc
//
// Prints the table of launches: name, bytes of the argument, threads, source.
#include <cstdio>
#include <cstring>

#include "csrc/causal_conv1d/hip_launcher.h"

int main() {
  for (int i = 0; i < accel::conv1d::kEntryCount; ++i) {
    const accel::conv1d::Entry& e = accel::conv1d::kEntries[i];
    const accel::conv1d::HipKernel& kernel = accel::conv1d::kHipKernels[i];
    if (std::strcmp(kernel.name, e.name) != 0) return 1;
    std::printf("%s %d %d %s\n", e.name, e.args_bytes, e.threads, kernel.unit);
  }
}
