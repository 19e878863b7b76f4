// File: row_moves_test.cc
//
// Rows that trade places in their own memory.
#include "csrc/hkv/row_moves.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "csrc/common/errors.h"
#include "tests/common/expect.h"

ACCEL_PACKAGE("hkv");

namespace {

constexpr size_t kRowBytes = 12;

void Set(const hkv::RowMemory& rows, uint64_t row, uint32_t number) {
  for (size_t i = 0; i < kRowBytes; i += 4) std::memcpy(rows[row * kRowBytes + i], &number, 4);
}

bool Is(const hkv::RowMemory& rows, uint64_t row, uint32_t number) {
  for (size_t i = 0; i < kRowBytes; i += 4) {
    if (std::memcmp(rows[row * kRowBytes + i], &number, 4) != 0) return false;
  }
  return true;
}

// `live` of the `old_size` rows go to random ones of `new_size`.
bool MovesAsAsked(uint32_t old_size, uint32_t new_size, uint32_t live, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> from(old_size), targets(new_size), to(old_size, hkv::kStays);
  std::iota(from.begin(), from.end(), 0);
  std::iota(targets.begin(), targets.end(), 0);
  std::shuffle(from.begin(), from.end(), random);
  std::shuffle(targets.begin(), targets.end(), random);
  hkv::RowMemory rows;
  rows.Resize(old_size * kRowBytes);
  for (uint32_t r = 0; r < old_size; ++r) Set(rows, r, r);
  for (uint32_t i = 0; i < live; ++i) to[from[i]] = targets[i];
  rows.Resize(new_size * kRowBytes);
  std::vector<char> spare(2 * kRowBytes);
  hkv::MoveRows(rows, kRowBytes, to, spare.data());
  for (uint32_t i = 0; i < live; ++i) {
    if (!Is(rows, targets[i], from[i])) return false;
  }
  return true;
}

}  // namespace

int main() {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    EXPECT(MovesAsAsked(1, 1, 1, seed));
    EXPECT(MovesAsAsked(100, 100, 100, seed));  // cycles alone
    EXPECT(MovesAsAsked(100, 101, 100, seed));
    EXPECT(MovesAsAsked(100, 200, 60, seed));
    EXPECT(MovesAsAsked(1000, 1500, 1000, seed));
  }
  return accel_test::Failures();
}
