// File: expect.h
//
// What the tests of host C++ claim: EXPECT(x == 3) says where it does not hold, and main() returns
// Failures().
#pragma once

#include <cstdio>
#include <string>

#define EXPECT(claim) accel_test::Expect((claim), #claim, __FILE__, __LINE__)

namespace accel_test {

inline int& Failures() {
  static int count = 0;
  return count;
}

inline void Expect(bool holds, const char* claim, const char* file, int line) {
  if (!holds && ++Failures() <= 20) std::fprintf(stderr, "%s:%d: not so: %s\n", file, line, claim);
}

// What `call` throws as an Exception; "" if it throws nothing.
template <class Exception, class Call>
std::string Thrown(Call call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace accel_test
