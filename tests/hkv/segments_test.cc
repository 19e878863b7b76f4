// File: segments_test.cc
//
// A call over many tables does in each of them what a call on it alone does.
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/common/errors.h"
#include "csrc/hkv/table.h"
#include "tests/common/expect.h"
#include "tests/hkv/host_tables.h"

ACCEL_PACKAGE("hkv");

namespace {

using hkv::Table;
using hkv::WriteMode;
using namespace hkv_test;  // NOLINT

constexpr uint64_t kTables = 3, kKeys = 600;
const uint64_t kOffsets[] = {0, 100, 100, 590};  // ten keys are nobody's
const uint64_t kCapacities[] = {50, 10, 300};
const uint32_t kDims[] = {1, 2, 4};
const EvictStrategy kStrategies[] = {EvictStrategy::kLru, EvictStrategy::kLfu,
                                     EvictStrategy::kCustomized};

// Two equal sets of tables.
struct Sets {
  Sets() {
    for (uint64_t t = 0; t < kTables; ++t) {
      for (auto* set : {&together, &alone}) {
        set->push_back(Make(kCapacities[t], kStrategies[t], {}, kDims[t]));
      }
      tables.push_back(together[t].get());
    }
    segments = {kTables, tables.data(), kOffsets};
  }

  std::vector<std::unique_ptr<Table>> together, alone;
  std::vector<Table*> tables;
  hkv::Segments segments;
};

void EachTableGetsItsSegment() {
  Sets sets;
  const auto keys = Random(kKeys, 1, 400), scores = Random(kKeys, 2, 1000);
  std::vector<float> values(kKeys * 4), evicted(kKeys * 4, -1);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  std::vector<uint64_t> evicted_keys(kKeys, 77), evicted_scores(kKeys), counts(kTables, 99);
  std::vector<uint8_t> status(kKeys, 99);
  hkv::Write call = Writing(WriteMode::kInsertAndEvict, keys);
  call.scores = scores.data();
  call.values = reinterpret_cast<char*>(values.data());
  call.evicted_keys = evicted_keys.data();
  call.evicted_values = reinterpret_cast<char*>(evicted.data());
  call.evicted_scores = evicted_scores.data();
  call.evicted_count = counts.data();
  call.status = status.data();
  Table::Run(sets.segments, call, nullptr);
  EXPECT(status[590] == 99 && counts[1] == 0);

  for (uint64_t t = 0; t < kTables; ++t) {
    const uint64_t first = kOffsets[t], n = kOffsets[t + 1] - first;
    std::vector<uint64_t> left(n);
    std::vector<float> left_values(n * 4);
    std::vector<uint8_t> one_status(n);
    uint64_t count = 0;
    hkv::Write one = Writing(WriteMode::kInsertAndEvict, keys);
    one.n = n;
    one.keys += first;
    one.pitch = 16;
    one.scores = t == 0 ? nullptr : scores.data() + first;
    one.values = reinterpret_cast<char*>(values.data() + first * 4);
    one.evicted_keys = left.data();
    one.evicted_values = reinterpret_cast<char*>(left_values.data());
    one.evicted_count = &count;
    one.status = one_status.data();
    if (n > 0) sets.alone[t]->Run(one, nullptr);
    EXPECT(count == counts[t]);
    for (uint64_t i = 0; i < n; ++i) EXPECT(one_status[i] == status[first + i]);
    for (uint64_t i = 0; i < count; ++i) {
      EXPECT(left[i] == evicted_keys[first + i]);
      for (uint32_t d = 0; d < kDims[t]; ++d) {
        EXPECT(left_values[i * 4 + d] == evicted[(first + i) * 4 + d]);
      }
    }
  }

  // What is there now, by keys and by slots.
  std::vector<float> got(kKeys * 4, -1);
  std::vector<uint64_t> rows(kKeys, 5);
  std::unique_ptr<bool[]> founds(new bool[kKeys]());
  hkv::Read read;
  read.name = "a test";
  read.n = kKeys;
  read.keys = keys.data();
  read.values = reinterpret_cast<char*>(got.data());
  read.founds = founds.get();
  read.row_numbers = rows.data();
  Table::Run(sets.segments, read, nullptr);
  const uint64_t begin[] = {0, 5, 10}, end[] = {50, 10, 300};
  std::vector<uint64_t> exported(kKeys), exported_counts(kTables);
  hkv::SegmentsExport all;
  all.begin = begin;
  all.end = end;
  all.out.keys = exported.data();
  all.out.count = exported_counts.data();
  Table::Run(sets.segments, all, nullptr);
  uint64_t entry = 0;
  for (uint64_t t = 0; t < kTables; ++t) {
    const uint64_t first = kOffsets[t], n = kOffsets[t + 1] - first;
    std::vector<float> values_alone(n * kDims[t]);
    std::vector<uint64_t> rows_alone(n), exported_alone(end[t] - begin[t]);
    uint64_t count = 0;
    sets.alone[t]->find(n, keys.data() + first, values_alone.data(), nullptr, nullptr, nullptr);
    sets.alone[t]->find_rows(n, keys.data() + first, rows_alone.data(), nullptr, nullptr, nullptr);
    sets.alone[t]->export_batch(end[t] - begin[t], begin[t], &count, exported_alone.data(), nullptr,
                                nullptr, nullptr);
    for (uint64_t i = 0; i < n; ++i) {
      EXPECT(rows[first + i] == rows_alone[i]);
      EXPECT(founds[first + i] == (rows_alone[i] != hkv::kNoRow));
      for (uint32_t d = 0; d < kDims[t] && founds[first + i]; ++d) {
        EXPECT(got[(first + i) * 4 + d] == values_alone[i * kDims[t] + d]);
      }
    }
    EXPECT(exported_counts[t] == count);
    for (uint64_t i = 0; i < count; ++i) EXPECT(exported[entry + i] == exported_alone[i]);
    entry += end[t] - begin[t];
  }

  Table::Run(sets.segments, Writing(WriteMode::kErase, keys), nullptr);
  Table::Run(sets.segments, read, nullptr);
  for (uint64_t i = 0; i < 590; ++i) EXPECT(!founds[i]);
}

void WrongSegmentsAreNamed() {
  Sets sets;
  const auto keys = Random(kKeys, 1, 400);
  const auto said = [&](const hkv::Segments& segments, uint64_t pitch = 0) {
    hkv::Write call = Writing(WriteMode::kErase, keys);
    call.pitch = pitch;
    return accel_test::Thrown<std::invalid_argument>([&] { Table::Run(segments, call, nullptr); });
  };
  const uint64_t falling[] = {0, 10, 5, 20}, far[] = {0, 10, 20, 601};
  EXPECT(said({kTables, sets.tables.data(), falling}) ==
         "hkv: a test: offsets[1] and offsets[2] are 10 and 5; they must ascend and end within n = "
         "600");
  EXPECT(said({kTables, sets.tables.data(), far}) ==
         "hkv: a test: offsets[2] and offsets[3] are 20 and 601; they must ascend and end within n "
         "= 600");
  EXPECT(said({kTables, sets.tables.data(), nullptr}) ==
         "hkv: a test: offsets is null; an array of n = 3 entries is needed");
  Table* const twice[] = {sets.tables[0], sets.tables[0]};
  EXPECT(said({2, twice, kOffsets}) ==
         "hkv: a test: tables[0] and tables[1] are one table; they must be different ones");
  EXPECT(said(sets.segments, 12) ==
         "hkv: a test: pitch is 12 bytes; it must be 0 or a multiple of 4 that holds a row, 16 "
         "bytes");
  const auto other = hkv::CreateHostTable(
      [] {
        hkv::HashTableOptions options;
        options.max_capacity = 1;
        return options;
      }(),
      hkv::KeyType::kUInt64, hkv::ValueType::kFloat16, EvictStrategy::kLru, 1);
  Table* const unlike[] = {sets.tables[0], other.get()};
  EXPECT(said({2, unlike, kOffsets}).find("tables[1] is host, uint64, float16") !=
         std::string::npos);
}

}  // namespace

int main() {
  EachTableGetsItsSegment();
  WrongSegmentsAreNamed();
  return accel_test::Failures();
}
