// File: calls_test.cc
//
// Calls as values on the host table: what bindings to other languages rely on.
#include "csrc/hkv/calls.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "csrc/common/errors.h"
#include "csrc/hkv/table.h"
#include "tests/common/expect.h"

ACCEL_PACKAGE("hkv");

// Plain structs: C can spell them, and copies of their bytes are copies.
static_assert(std::is_standard_layout<hkv::Read>::value, "");
static_assert(std::is_trivially_copyable<hkv::Read>::value, "");
static_assert(std::is_standard_layout<hkv::Write>::value, "");
static_assert(std::is_trivially_copyable<hkv::Write>::value, "");
static_assert(std::is_standard_layout<hkv::Export>::value, "");
static_assert(std::is_trivially_copyable<hkv::Export>::value, "");

int main() {
  hkv::HashTableOptions options;
  options.max_capacity = 10;
  options.dim = 1;
  const auto table = hkv::CreateHostTable(options, hkv::KeyType::kUInt64, hkv::ValueType::kFloat32,
                                          hkv::EvictStrategy::kLfu, 1);
  std::vector<uint64_t> keys = {1, 2, 1}, scores = {5, 6, 7}, after(3);
  std::vector<float> values = {1, 2, 3}, out(3);
  hkv::Write write;
  write.name = "a test";
  write.n = 3;
  write.keys = keys.data();
  write.scores = scores.data();
  write.values = reinterpret_cast<char*>(values.data());
  write.out_scores = after.data();
  table->Run(write, nullptr);
  EXPECT(after == (std::vector<uint64_t>{5, 6, 12}));
  EXPECT(table->size(nullptr) == 2);

  hkv::Read read;
  read.name = "a test";
  read.n = 3;
  read.keys = keys.data();
  read.values = reinterpret_cast<char*>(out.data());
  table->Run(read, nullptr);
  EXPECT(out == (std::vector<float>{3, 2, 3}));

  write.values = nullptr;
  std::string said;
  try {
    table->Run(write, nullptr);
  } catch (const std::invalid_argument& error) {
    said = error.what();
  }
  EXPECT(said == "hkv: a test: values is null; an array of n = 3 entries is needed");
  return accel_test::Failures();
}
