// File: errors_test.cc
//
// errors.h: the package's name comes first, Python gets the right kind of exception, and a check
// that holds writes nothing.
#include "csrc/common/errors.h"

#include <ostream>
#include <stdexcept>

#include "tests/common/expect.h"

ACCEL_PACKAGE("a_package");

namespace {

int written = 0;

struct Counted {};

std::ostream& operator<<(std::ostream& out, const Counted&) {
  ++written;
  return out << "counted";
}

}  // namespace

int main() {
  using accel_test::Thrown;
  EXPECT(Thrown<std::runtime_error>([] { accel::Fail("n=", 3, " is odd"); }) ==
         "a_package: n=3 is odd");
  EXPECT(Thrown<std::invalid_argument>([] { accel::FailArgument("dim is ", 0); }) ==
         "a_package: dim is 0");
  EXPECT(Thrown<std::runtime_error>([] { accel::Check(false, Counted{}); }) ==
         "a_package: counted");
  EXPECT(Thrown<std::invalid_argument>([] { accel::CheckArgument(false, "x"); }) == "a_package: x");
  EXPECT(written == 1);
  accel::Check(true, Counted{});
  accel::CheckArgument(true, Counted{});
  EXPECT(written == 1);
  return accel_test::Failures();
}
