// File: environment_test.cc
//
// environment.h: a number, nothing, or an error that names the variable and what it may be.
#include "csrc/common/environment.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "tests/common/expect.h"

ACCEL_PACKAGE("a_package");

int main() {
  const auto number = [](const char* value) {
    setenv("A_NUMBER", value, 1);
    return accel::EnvironmentNumber("A_NUMBER", 10, 99);
  };
  unsetenv("A_NUMBER");
  EXPECT(accel::EnvironmentNumber("A_NUMBER", 10, 99) == 0);
  EXPECT(number("") == 0);
  EXPECT(number("10") == 10);
  EXPECT(number("99") == 99);
  for (const char* wrong : {"9", "100", "-20", "20kb", " 20", "99999999999", "x"}) {
    EXPECT(accel_test::Thrown<std::runtime_error>([&] { number(wrong); }) ==
           std::string("a_package: A_NUMBER must be a number from 10 to 99, got '") + wrong + "'");
  }
  return accel_test::Failures();
}
