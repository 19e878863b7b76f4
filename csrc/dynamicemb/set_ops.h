// File: set_ops.h
//
// What the torch ops on sets of hash tables share: their set, cleared results, and what an error
// says where there is no memory.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "csrc/common/cuda_memory.h"
#include "csrc/common/device_ops.h"
#include "csrc/dynamicemb/dynamic_variable.h"
#include "csrc/dynamicemb/dynamicemb.h"

namespace accel::dynamicemb {

// Work that takes memory: where there is none, the error also says how much is free on the GPU.
template <class Work>
auto Taking(int64_t device, const Work& work) {
  try {
    return work();
  } catch (const hkv::MemoryRefused& refused) {
    size_t free = 0, all = 0;
    if (device < 0 || cudaMemGetInfo(&free, &all) != cudaSuccess) throw;
    throw std::runtime_error(std::string(refused.what()) + "; " + std::to_string(free) + " of " +
                             std::to_string(all) + " bytes of the GPU are free");
  }
}

// A set and the tensors of a call agree.
inline void CheckSet(const DynamicVariable& variable, const Tensor& state) {
  CheckVector(state, "state", ScalarType::Long, kStateWords, state);
  const int device = state.is_cuda() ? state.get_device_index() : -1;
  Check(device == variable.device(), "state is on device ", device, ", the set on ",
        variable.device(), " (-1: the CPU)");
}

inline void CheckBatch(const DynamicVariable& variable, const Tensor& keys, const Tensor& offsets,
                       const Tensor& state) {
  CheckSet(variable, state);
  CheckVector(keys, "keys", ScalarType::Long, -1, state);
  CheckVector(offsets, "offsets", ScalarType::Long, variable.size() + 1, state);
}

inline Tensor Zeros(const Where& where, const Tensor& beside, int64_t n, int32_t dtype) {
  const Tensor made = Empty(beside, n, dtype);
  const size_t bytes = static_cast<size_t>(n) * made.element_size();
  if (bytes == 0) return made;
  if (where.cuda) {
    const auto stream = static_cast<cudaStream_t>(where.stream);
    CheckCuda(cudaMemsetAsync(made.mutable_data_ptr(), 0, bytes, stream), "clearing a result");
  } else {
    std::memset(made.mutable_data_ptr(), 0, bytes);
  }
  return made;
}

}  // namespace accel::dynamicemb
