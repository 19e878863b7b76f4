// File: cuda_memory_test.cc
//
// What cuda_memory.h and stream_order.h do where there is no GPU: errors are named, no memory is no
// call, and an order that is switched off asks nobody.
#include "csrc/common/cuda_memory.h"

#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include "csrc/common/errors.h"
#include "csrc/common/stream_order.h"

ACCEL_PACKAGE("a package");

int main() {
  using accel::Buffer;
  std::string said;
  try {
    accel::CheckCuda(cudaErrorInvalidValue, "copying an array");
  } catch (const std::runtime_error& error) {
    said = error.what();
  }
  accel::CheckCuda(cudaSuccess, "nothing");
  if (said != "a package: copying an array: invalid argument") {
    std::fprintf(stderr, "an error said: %s\n", said.c_str());
    return 1;
  }
  Buffer none(accel::MemoryKind::kDevice, 0, "nothing");
  Buffer moved = std::move(none);
  moved = Buffer(0, "nothing", nullptr);
  if (moved.As<char>() != nullptr || moved.bytes() != 0) return 1;
  accel::StreamOrder order(false);
  order.Before(nullptr, true);
  order.After(nullptr, true);
  return order.Applies(nullptr);
}
