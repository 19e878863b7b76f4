// File: window.h
//
// The window of the ops' arguments, which are 64-bit numbers.
#pragma once

#include <cstdint>
#include <limits>

namespace accel::hstu {

// A window side; anything beyond int32 sees as far as no bound at all.
inline int32_t WindowSide(int64_t value) {
  return value < 0 || value > std::numeric_limits<int32_t>::max() ? -1
                                                                  : static_cast<int32_t>(value);
}

}  // namespace accel::hstu
