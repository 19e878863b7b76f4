// File: rows_test.cc
//
// Rows that calls hand out: nobody else's within a call, the same number while the key lives, held
// as often as they were asked for. And the scores and evictions of such calls.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "csrc/common/errors.h"
#include "csrc/hkv/table.h"
#include "tests/common/expect.h"
#include "tests/hkv/host_tables.h"

ACCEL_PACKAGE("hkv");

namespace {

using hkv::kNoRow;
using hkv::ScorePolicy;
using hkv::WriteMode;
using namespace hkv_test;  // NOLINT

// A row number or address has one key, and keys that have none were refused.
template <class Row>
void ExpectOneKeyARow(const std::vector<uint64_t>& keys, const std::vector<Row>& rows, Row none,
                      const std::vector<uint8_t>& status) {
  std::unordered_map<Row, uint64_t> owner;
  for (size_t i = 0; i < keys.size(); ++i) {
    EXPECT((rows[i] == none) == (status[i] == hkv::kRefused));
    if (rows[i] != none) EXPECT(owner.emplace(rows[i], keys[i]).first->second == keys[i]);
  }
}

void NoTwoKeysOfACallGetOneRow() {
  for (const uint64_t capacity : {1, 100, 1000, 5000}) {
    for (const EvictStrategy strategy :
         {EvictStrategy::kLru, EvictStrategy::kLfu, EvictStrategy::kCustomized}) {
      for (const uint64_t times : {1, 2}) {
        const auto table = Make(capacity, strategy);
        const auto old = Sequence(capacity, 1 << 20);
        const std::vector<float> values(old.size());
        const auto low = Random(old.size(), 1, 100);
        table->insert_or_assign(old.size(), old.data(), values.data(), Given(strategy, low), false,
                                nullptr, nullptr);
        const auto held = Sequence(capacity / 3, 1 << 20);
        table->hold_keys(held.size(), held.data(), nullptr, nullptr);
        const uint64_t locked = table->locked(nullptr);
        std::vector<uint64_t> before(held.size()), after(held.size());
        table->find_rows(held.size(), held.data(), before.data(), nullptr, nullptr, nullptr);

        auto keys = Random(times * capacity, 2, 4 * capacity);
        const auto scores = Random(keys.size(), 3, 1000);
        std::vector<uint64_t> rows(keys.size());
        std::vector<uint8_t> status(keys.size());
        for (int turn = 0; turn < 2; ++turn) {
          table->find_or_insert_rows(keys.size(), keys.data(), rows.data(), nullptr,
                                     Given(strategy, scores), false, nullptr, nullptr, nullptr,
                                     nullptr, status.data(), nullptr);
          ExpectOneKeyARow(keys, rows, kNoRow, status);
          for (const uint64_t row : rows) EXPECT(row == kNoRow || row < capacity);
          std::vector<void*> pointers(keys.size());
          for (uint64_t& key : keys) key += capacity;
          table->find_or_insert_pointers(keys.size(), keys.data(), pointers.data(), nullptr,
                                         Given(strategy, scores), false, status.data(), nullptr);
          ExpectOneKeyARow<void*>(keys, pointers, nullptr, status);
        }
        table->find_rows(held.size(), held.data(), after.data(), nullptr, nullptr, nullptr);
        EXPECT(before == after);
        EXPECT(table->locked(nullptr) == locked && locked >= held.size() * 9 / 10);
      }
    }
  }
}

void RowNumbersAreThoseOfTheView() {
  const auto table = Make(1000, EvictStrategy::kLru);
  const auto keys = Sequence(900);
  std::vector<uint64_t> rows(900);
  std::vector<void*> pointers(900);
  table->find_or_insert_rows(900, keys.data(), rows.data(), nullptr, nullptr, false, nullptr,
                             nullptr, nullptr, nullptr, nullptr, nullptr);
  table->find_pointers(900, keys.data(), pointers.data(), nullptr, nullptr, nullptr);
  const hkv::RowsView view = table->rows();
  EXPECT(view.stride == 4 && view.capacity == 1000 && view.hbm_rows == 1000);
  for (int i = 0; i < 900; ++i) EXPECT(view.hbm + rows[i] * view.stride == pointers[i]);
  const uint64_t absent = 5000;
  uint64_t row = 0;
  table->find_rows(1, &absent, &row, nullptr, nullptr, nullptr);
  EXPECT(row == kNoRow);
}

void HoldersCount() {
  const auto table = Make(10, EvictStrategy::kLru);
  const std::vector<uint64_t> keys = {1, 2, 2};
  uint64_t rows[3];
  table->find_or_insert_rows(3, keys.data(), rows, nullptr, nullptr, true, nullptr, nullptr,
                             nullptr, nullptr, nullptr, nullptr);
  EXPECT(table->locked(nullptr) == 2);
  bool done[3];
  uint8_t status[3];
  table->lock_keys(1, keys.data(), done, nullptr);
  EXPECT(!done[0]);  // somebody holds it
  table->hold_keys(1, keys.data(), done, nullptr);
  EXPECT(done[0]);
  table->unlock_keys(3, keys.data(), done, nullptr);
  EXPECT(done[0] && done[1] && done[2]);
  EXPECT(table->locked(nullptr) == 1);
  table->erase(2, keys.data(), status, nullptr);
  EXPECT(status[0] == hkv::kLocked && status[1] == hkv::kUpdated);
  const uint64_t held[] = {rows[0], kNoRow, 1000};
  table->unlock_rows(3, held, done, nullptr);
  EXPECT(done[0] && !done[1] && !done[2]);
  table->unlock_rows(1, held, done, nullptr);
  EXPECT(!done[0]);
  EXPECT(table->locked(nullptr) == 0);
}

void HeldRowsDoNotMove() {
  hkv::HashTableOptions options;
  options.init_capacity = 10;
  const auto table = Make(1000, EvictStrategy::kLru, options);
  const auto keys = Sequence(9);
  const std::vector<float> values(9);
  table->insert_or_assign(2, keys.data(), values.data(), nullptr, false, nullptr, nullptr);
  table->hold_keys(1, keys.data(), nullptr, nullptr);
  table->insert_or_assign(9, keys.data(), values.data(), nullptr, false, nullptr, nullptr);
  EXPECT(table->capacity() == 10 && table->size(nullptr) == 9);
  EXPECT(accel_test::Thrown<std::runtime_error>([&] { table->reserve(100, nullptr); }) ==
         "hkv: reserve: keys are locked, so their rows cannot move");
  table->unlock_keys(1, keys.data(), nullptr, nullptr);
  table->insert_or_assign(9, keys.data(), values.data(), nullptr, false, nullptr, nullptr);
  EXPECT(table->capacity() == 20);
}

void PoliciesMakeScores() {
  const auto table = Make(10, EvictStrategy::kLfu);
  const std::vector<uint64_t> keys = {1}, given = {5};
  const float value = 0;
  uint64_t score = 0;
  const auto after = [&](ScorePolicy policy) {
    hkv::Write call = Writing(WriteMode::kInsertOrAssign, keys);
    call.values = reinterpret_cast<char*>(const_cast<float*>(&value));
    call.scores = policy == ScorePolicy::kClock ? nullptr : given.data();
    call.policy = policy;
    call.out_scores = &score;
    table->Run(call, nullptr);
    return score;
  };
  EXPECT(after(ScorePolicy::kConstant) == 5);  // a new key gets the given score
  EXPECT(after(ScorePolicy::kConstant) == 5);
  EXPECT(after(ScorePolicy::kAccumulate) == 10);
  EXPECT(after(ScorePolicy::kDefault) == 15);
  EXPECT(after(ScorePolicy::kAssign) == 5);
  EXPECT(after(ScorePolicy::kClock) > 1000);

  hkv::HashTableOptions options;
  options.score_policy = ScorePolicy::kAssign;
  const auto other = Make(10, EvictStrategy::kLru, options);
  EXPECT(accel_test::Thrown<std::invalid_argument>([&] {
           other->insert_or_assign(1, keys.data(), &value, nullptr, false, nullptr, nullptr);
         }) ==
         "hkv: insert_or_assign: scores is null; score policy assign needs the caller's scores");
  other->insert_or_assign(1, keys.data(), &value, given.data(), false, nullptr, nullptr);
  other->find(1, keys.data(), nullptr, nullptr, &score, nullptr);
  EXPECT(score == 5);
}

void FindOrInsertReportsWhatLeft() {
  const auto table = Make(2, EvictStrategy::kCustomized);
  const std::vector<uint64_t> old = {1, 2}, old_scores = {7, 8}, keys = {3, 2, 4},
                              scores = {9, 10, 1};
  const float values[] = {10, 20};
  table->insert_or_assign(2, old.data(), values, old_scores.data(), false, nullptr, nullptr);
  std::vector<uint64_t> rows(3), left(3), left_scores(3);
  std::vector<float> left_values(3);
  std::vector<uint8_t> status(3);
  uint64_t count = 5;
  table->find_or_insert_rows(3, keys.data(), rows.data(), nullptr, scores.data(), false,
                             left.data(), left_values.data(), left_scores.data(), &count,
                             status.data(), nullptr);
  EXPECT(count == 1 && left[0] == 1 && left_scores[0] == 7 && left_values[0] == 10);
  EXPECT(status == (std::vector<uint8_t>{hkv::kEvicted, hkv::kUpdated, hkv::kRefused}));
}

void NewcomersAreAdmittedByScoreOrAlways() {
  for (const bool always : {false, true}) {
    hkv::HashTableOptions options;
    if (always) options.newcomers = hkv::Newcomers::kAlways;
    const auto table = Make(2, EvictStrategy::kLfu, options);
    const std::vector<uint64_t> keys = {1, 2, 3}, increments = {5, 6, 1};
    const float values[3] = {};
    std::vector<uint8_t> status(3);
    table->insert_or_assign(3, keys.data(), values, increments.data(), false, status.data(),
                            nullptr);
    EXPECT(status[2] == (always ? hkv::kEvicted : hkv::kRefused));
    bool founds[3];
    table->contains(3, keys.data(), founds, nullptr);
    EXPECT(founds[0] != always && founds[1] && founds[2] == always);
  }
}

// Five batches into a table that is full after the first ones: how many of the rows that stay are
// those of the greatest scores.
void TheGreatestScoresStay() {
  constexpr uint64_t kCapacity = 1 << 17, kBatches = 10, kBatch = 2 * kCapacity / kBatches;
  for (const EvictStrategy strategy :
       {EvictStrategy::kLru, EvictStrategy::kLfu, EvictStrategy::kCustomized}) {
    const auto table = Make(kCapacity, strategy);
    auto keys = Random(kBatches * kBatch, 9, uint64_t{1} << 62);
    auto scores = Sequence(keys.size(), 1);
    if (strategy == EvictStrategy::kLfu) {  // the best do not come last
      std::shuffle(scores.begin(), scores.end(), std::mt19937_64(7));
    }
    const std::vector<float> values(kBatch);
    for (uint64_t first = 0; first < keys.size(); first += kBatch) {
      const auto given = strategy == EvictStrategy::kLru ? nullptr : scores.data() + first;
      table->insert_or_assign(kBatch, keys.data() + first, values.data(), given, false, nullptr,
                              nullptr);
    }
    std::unique_ptr<bool[]> founds(new bool[keys.size()]);
    table->contains(keys.size(), keys.data(), founds.get(), nullptr);
    uint64_t best = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      best += founds[i] && scores[i] > keys.size() - kCapacity;
    }
    const double share = static_cast<double>(best) / static_cast<double>(table->size(nullptr));
    std::printf("%s: %.4f of the rows that stay are of the greatest scores\n", Name(strategy),
                share);
    EXPECT(share >= 0.995);
  }
}

}  // namespace

int main() {
  NoTwoKeysOfACallGetOneRow();
  RowNumbersAreThoseOfTheView();
  HoldersCount();
  HeldRowsDoNotMove();
  PoliciesMakeScores();
  FindOrInsertReportsWhatLeft();
  NewcomersAreAdmittedByScoreOrAlways();
  TheGreatestScoresStay();
  return accel_test::Failures();
}
