// File: host_block_test.cc
//
// Kernels on the host, as GPUs with waves of 32 and of 64 lanes run them: right ones come out
// right, and wrong ones wrong.
#include "csrc/common/host_block.h"

#include <cmath>
#include <limits>
#include <vector>

#include "tests/common/expect.h"
#include "tests/hip/kernels.cu"

using accel::HostMachine;
using accel_test::Neighbours;

constexpr int kBlocks = 3, kCount = kBlocks * 128;
constexpr HostMachine kMachines[] = {{32}, {64}, {32, true}, {64, true}};

static std::vector<float> RunNeighbours(void (*kernel)(Neighbours), const HostMachine& machine) {
  std::vector<float> x(kCount), y(kCount, std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < kCount; ++i) x[i] = static_cast<float>(i * 7 % 61);
  accel::RunOnHost(kernel, {x.data(), y.data()}, kBlocks, 128, machine);
  return y;
}

static std::vector<float> Expected() {
  std::vector<float> y(kCount);
  const auto x = [](int i) { return static_cast<float>(i * 7 % 61); };
  for (int i = 0; i < kCount; ++i) {
    const int group = i / 32 * 32;
    if (i > group) y[i] += x(i - 1);
    if (i < group + 31) y[i] += x(i + 1);
    if (i % 128 >= 32) {
      for (int j = group - 32; j < group; ++j) y[i] += x(j);
    }
  }
  return y;
}

static bool WrongLaneIsRight(const HostMachine& machine) {
  const std::vector<float> y = RunNeighbours(accel_test::wrong_lane, machine);
  for (int i = 0; i < kCount; ++i) {
    const int from = i / 32 * 32 + (i + 1) % 32;
    if (!(y[i] == static_cast<float>(from * 7 % 61))) return false;
  }
  return true;
}

static bool NoBarrierIsRight(const HostMachine& machine) {
  const std::vector<float> y = RunNeighbours(accel_test::no_barrier, machine);
  for (int i = 0; i < kCount; ++i) {
    if (!(y[i] == static_cast<float>((i % 128 == 0 ? i : i - 1) * 7 % 61))) return false;
  }
  return true;
}

static void TestWords(const HostMachine& machine) {
  const int count = 96;  // three groups
  std::vector<uint32_t> in(count * 4), half(count * 4), bfloat(count * 4), out(count * 4);
  std::vector<uint16_t> narrow(count);
  std::vector<uint64_t> wide(count);
  for (size_t i = 0; i < in.size(); ++i)
    in[i] = 0x3f803c00u + 0x00010003u * static_cast<uint32_t>(i);
  const auto bytes = [](std::vector<uint32_t>& v) { return reinterpret_cast<char*>(v.data()); };
  const accel_test::WordsArguments a{bytes(in),     bytes(half), bytes(bfloat), bytes(out),
                                     narrow.data(), wide.data(), count};
  accel::RunOnHost(accel_test::words, a, 1, 128, machine);
  EXPECT(half == in && bfloat == in);  // 16 bits are floats of their own, to and fro
  for (int i = 0; i < count * 4; ++i) {
    const double x = accel::FloatOfBits(in[i]);
    EXPECT(std::fabs(accel::FloatOfBits(out[i]) - (2 * x / (1 + std::exp(-x)) + 1)) <
           1e-6 * (x + 1));
  }
  for (int i = 0; i < count; ++i) {
    EXPECT(narrow[i] == accel::FloatToBFloat16(accel::FloatOfBits(in[4 * i])));
    const int from = i / 32 * 32 + 31 - i % 32;
    EXPECT(wide[i] == (static_cast<uint64_t>(in[4 * from + 1]) << 32 | in[4 * from]));
  }
}

// Writes one value behind the end of y.
ACCEL_KERNEL(32) too_far(Neighbours a) { a.y[accel::ThreadId() + 1] = a.x[accel::ThreadId()]; }

int main(int argc, char**) {
  if (argc > 1) {  // the sanitizer has to see it: sanitizer_test.py
    std::vector<float> x(32), y(32);
    accel::RunOnHost(too_far, {x.data(), y.data()}, 1, 32, {32});
    return 0;
  }
  for (const HostMachine& machine : kMachines) {
    EXPECT(RunNeighbours(accel_test::neighbours, machine) == Expected());
    EXPECT(WrongLaneIsRight(machine) == (machine.wave == 32));
    EXPECT(NoBarrierIsRight(machine) == !machine.last_first);
    EXPECT(accel_test::Thrown<std::logic_error>([&] {
             RunNeighbours(accel_test::half_a_barrier, machine);
           }) == "a barrier or a shuffle waits for threads that do not come to it");
    TestWords(machine);
  }
  return accel_test::Failures();
}
