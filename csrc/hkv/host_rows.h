// File: host_rows.h
//
// Arithmetic on rows of values in host memory.
#pragma once

#include <cstdint>
#include <cstring>

#include "csrc/common/half.h"
#include "csrc/hkv/types.h"

namespace hkv {

// row += delta; sums are made in float and rounded.
inline void AddRow(ValueType type, uint32_t dim, const char* delta, char* row) {
  for (uint32_t d = 0; d < dim; ++d) {
    if (type == ValueType::kFloat32) {
      float a, b;
      std::memcpy(&a, row + 4 * d, 4);
      std::memcpy(&b, delta + 4 * d, 4);
      a += b;
      std::memcpy(row + 4 * d, &a, 4);
    } else {
      uint16_t a, b;
      std::memcpy(&a, row + 2 * d, 2);
      std::memcpy(&b, delta + 2 * d, 2);
      a = type == ValueType::kFloat16
              ? accel::FloatToFloat16(accel::Float16ToFloat(a) + accel::Float16ToFloat(b))
              : accel::FloatToBFloat16(accel::BFloat16ToFloat(a) + accel::BFloat16ToFloat(b));
      std::memcpy(row + 2 * d, &a, 2);
    }
  }
}

}  // namespace hkv
