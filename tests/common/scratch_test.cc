// File: scratch_test.cc
//
// scratch.h: parts start on its alignment, in order, and do not overlap.
#include "csrc/common/scratch.h"

#include <cstddef>

#include "tests/common/expect.h"

int main() {
  EXPECT(accel::AlignScratch(0) == 0);
  EXPECT(accel::AlignScratch(1) == accel::kScratchAlignment);
  EXPECT(accel::AlignScratch(accel::kScratchAlignment) == accel::kScratchAlignment);
  accel::ScratchLayout layout;
  size_t end = 0;
  for (const size_t bytes : {size_t{1}, size_t{0}, size_t{256}, size_t{1000}, size_t{1} << 40}) {
    const size_t at = layout.Add(bytes);
    EXPECT(at % accel::kScratchAlignment == 0);
    EXPECT(at >= end);
    end = at + bytes;
    EXPECT(layout.bytes() >= end);
    EXPECT(layout.bytes() < end + accel::kScratchAlignment);
  }
  return accel_test::Failures();
}
