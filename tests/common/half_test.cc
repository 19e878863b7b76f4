// File: half_test.cc
//
// half.h over every bit pattern, and over the floats around every tie.
#include "csrc/common/half.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <initializer_list>

namespace {

int failures = 0;

void Expect(bool holds, const char* claim, uint32_t bits) {
  if (holds) return;
  if (failures++ < 20) std::fprintf(stderr, "%s: %#x\n", claim, bits);
}

struct Format {
  int exponent_bits, mantissa_bits;
  float (*to_float)(uint16_t);
  uint16_t (*of_float)(float);
};

// The value of finite bits, from the definition of the format.
double Value(const Format& f, uint16_t bits) {
  const int bias = (1 << (f.exponent_bits - 1)) - 1;
  const int exponent = bits >> f.mantissa_bits & ((1 << f.exponent_bits) - 1);
  const int mantissa = bits & ((1 << f.mantissa_bits) - 1);
  const double fraction = std::ldexp(mantissa, -f.mantissa_bits) + (exponent > 0);
  const double magnitude = std::ldexp(fraction, (exponent > 0 ? exponent : 1) - bias);
  return bits >> 15 ? -magnitude : magnitude;
}

void TestFormat(const Format& f) {
  const uint16_t infinity = ((1u << f.exponent_bits) - 1) << f.mantissa_bits;
  for (uint32_t sign : {0u, 0x8000u}) {
    for (uint32_t magnitude = 0; magnitude <= 0x7fff; ++magnitude) {
      const auto bits = static_cast<uint16_t>(sign | magnitude);
      const float x = f.to_float(bits);
      if (magnitude > infinity) {
        Expect(std::isnan(x) && f.of_float(x) == 0x7fff, "a NaN stays one", bits);
        continue;
      }
      Expect(f.of_float(x) == bits, "to float and back is the same", bits);
      if (magnitude == infinity) continue;
      Expect(x == Value(f, bits), "to float is exact", bits);
      // Half way to the next magnitude goes to the even one, and neighbours to the nearest.
      const double above = magnitude + 1 == infinity
                               ? std::copysign(std::ldexp(1, 1 << (f.exponent_bits - 1)), x)
                               : Value(f, static_cast<uint16_t>(bits + 1));
      const auto middle = static_cast<float>((Value(f, bits) + above) / 2);
      const auto next = static_cast<uint16_t>(bits + 1);
      Expect(f.of_float(middle) == (magnitude % 2 == 0 ? bits : next), "ties go to even", bits);
      Expect(f.of_float(std::nextafter(middle, x)) == bits, "below a tie goes down", bits);
      const auto far = std::copysign(INFINITY, x);
      Expect(f.of_float(std::nextafter(middle, far)) == next, "above a tie goes up", bits);
    }
  }
}

}  // namespace

int main() {
  TestFormat({5, 10, accel::Float16ToFloat, accel::FloatToFloat16});
  TestFormat({8, 7, accel::BFloat16ToFloat, accel::FloatToBFloat16});
  std::printf("%d failures\n", failures);
  return failures != 0;
}
