// File: launch.h
//
// The kernels of this build by name, and how one is started: on every kind of device by the same
// entry and the same bytes.
#pragma once

#include <cstdint>

namespace accel::conv1d {

struct Entry {
  const char* name;
  const void* function;  // what the CUDA runtime knows the kernel by; on the host the kernel itself
  int threads;           // of a block
  int args_bytes;        // of its one argument
};

extern const Entry kEntries[];
extern const int kEntryCount;

// Starts so many blocks on a stream. Returns 0 or a cudaError_t.
int LaunchCuda(const Entry& entry, int64_t blocks, const void* args, void* stream);

}  // namespace accel::conv1d
