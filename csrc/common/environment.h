// File: environment.h
//
// Numbers from environment variables.
#pragma once

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "csrc/common/errors.h"

namespace accel {

// The variable's number, which must be from `least` to `most`; 0 where it is unset or empty.
inline int EnvironmentNumber(const char* name, int least, int most) {
  const char* const text = std::getenv(name);
  if (text == nullptr || *text == '\0') return 0;
  int value = 0;
  const char* const end = text + std::strlen(text);
  const auto [at, error] = std::from_chars(text, end, value);
  Check(error == std::errc() && at == end && value >= least && value <= most, name,
        " must be a number from ", least, " to ", most, ", got '", text, "'");
  return value;
}

}  // namespace accel
