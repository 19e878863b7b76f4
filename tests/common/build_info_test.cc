// File: build_info_test.cc
//
// build_info.h: the report, and the error that names the flag of what was left out.
#include "csrc/common/build_info.h"

#include <stdexcept>

#include "tests/common/expect.h"

ACCEL_PACKAGE("a_package");

int main() {
  constexpr accel::Feature kRab{"A_DISABLE_RAB", "RAB", true};
  constexpr accel::Feature kFp16{"A_DISABLE_FP16", "FP16", false};
  constexpr accel::Feature kFeatures[] = {kRab, kFp16};
  EXPECT(accel::BuildInfo("1.2.3", "sm_80,compute_80", 13020, kFeatures) ==
         R"({"version": "1.2.3", "archs": "sm_80,compute_80", "cuda": "13.2", )"
         R"("enabled": ["RAB"], "disabled": ["FP16"]})");
  accel::Require(kRab, "rab");
  EXPECT(accel_test::Thrown<std::runtime_error>([&] { accel::Require(kFp16, "head dim ", 3); }) ==
         "a_package: head dim 3 is not in this build (A_DISABLE_FP16)");
  return accel_test::Failures();
}
