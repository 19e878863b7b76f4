// File: shared_memory_test.cc
//
// shared_memory.h and device.h: how many blocks fit, and that a machine without a driver is told
// as an error.
#include "csrc/common/shared_memory.h"

#include "csrc/common/device.h"
#include "tests/common/expect.h"

int main() {
  constexpr accel::SharedMemory kMemory{100 * 1024};
  static_assert(kMemory.Block() == 99 * 1024, "the driver keeps one kilobyte of every block");
  EXPECT(kMemory.Blocks(kMemory.Block(), 8) == 1);
  EXPECT(kMemory.Blocks(49 * 1024, 8) == 2);
  EXPECT(kMemory.Blocks(1024, 8) == 8);
  EXPECT(kMemory.Blocks(kMemory.Block() + 1, 8) == 0);

  int devices = 0;
  accel::SharedMemory found;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    EXPECT(accel::ProcessorCount() == 0);
    EXPECT(accel::SharedMemoryOfDevice(0, &found) != cudaSuccess);
    return accel_test::Failures();
  }
  EXPECT(accel::ProcessorCount() > 0);
  EXPECT(accel::SharedMemoryOfDevice(0, &found) == cudaSuccess && found.processor > 64 * 1024);
  EXPECT(accel::SharedMemoryOfDevice(64, &found) == cudaSuccess && found.processor == 64 * 1024);
  return accel_test::Failures();
}
