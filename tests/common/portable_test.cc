// File: portable_test.cc
//
// portable.h on the host: at compile time, and at the ends of its types.
#include "csrc/common/portable.h"

#include <cstdint>
#include <limits>

#include "tests/common/expect.h"

static_assert(accel::Min(2, 3) == 2 && accel::Max(2, 3) == 3, "constant expressions");
static_assert(accel::CeilDiv(int64_t{1} << 40, int64_t{3}) == 366503875926, "of 64 bits");

ACCEL_HD int Twice(int x) { return 2 * x; }

int main() {
  constexpr int kLeast = std::numeric_limits<int>::min(), kMost = std::numeric_limits<int>::max();
  EXPECT(accel::Min(kLeast, kMost) == kLeast);
  EXPECT(accel::Max(kLeast, kMost) == kMost);
  EXPECT(accel::Min(-1, 0) == -1);
  for (int a = 0; a <= 50; ++a) {
    for (int b = 1; b <= 20; ++b) {
      const int blocks = accel::CeilDiv(a, b);
      EXPECT(blocks * b >= a);
      EXPECT(blocks == 0 || (blocks - 1) * b < a);
    }
  }
  EXPECT(Twice(21) == 42);
  return accel_test::Failures();
}
