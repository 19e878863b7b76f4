// File: shared_memory.h
//
// How much shared memory a GPU has: what decides between the blockings of a kernel.
#pragma once

#include <cuda_runtime.h>

#include "csrc/hstu_attn/hstu.h"

namespace hstu {

constexpr int kReservedSmemBytes = 1024;  // of every block, by the driver

struct SharedMemory {
  int processor = 0;  // bytes of a multiprocessor

  // The most that one block may ask for.
  constexpr int block() const { return processor - kReservedSmemBytes; }

  // How many blocks that ask for `bytes` each fit on a multiprocessor, `at_most` counted.
  constexpr int blocks(int bytes, int at_most) const {
    const int fit = processor / (bytes + kReservedSmemBytes);
    return fit < at_most ? fit : at_most;
  }
};

constexpr SharedMemory kSm80Memory{164 * 1024}, kSm86Memory{100 * 1024};

// That of the current device, or less if the problem asks for it.
cudaError_t shared_memory(const Problem& p, SharedMemory* out);

}  // namespace hstu
