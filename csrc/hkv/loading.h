// File: loading.h
//
// How load() brings a file's rows into a table, on the host and on the GPU alike:
//
//   1. rows whose keys are there are overwritten;
//   2. when the others are more than there is room for, the smallest scores of both are left out;
//   3. the others are inserted, whatever order they come in: an engine's Insert() may set rows
//      aside, and its Finish() finds room for those (relocation.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <unordered_set>
#include <vector>

#include "csrc/hkv/table_file.h"
#include "csrc/hkv/types.h"

namespace hkv {

// Which absent rows of a file are taken: those with scores above `score`, and `equals` of those
// with just this one.
struct Cut {
  uint64_t score = 0;
  uint64_t equals = UINT64_MAX;

  bool Takes(uint64_t other) { return other > score || (other == score && equals-- > 0); }
};

// The cut that leaves `room` of all scores, those of the file's and those of the table's rows.
inline Cut CutTo(uint64_t room, const std::vector<uint64_t>& file,
                 const std::vector<uint64_t>& table) {
  std::vector<uint64_t> all(file);
  all.insert(all.end(), table.begin(), table.end());
  Cut cut;
  if (all.size() <= room) return cut;
  std::nth_element(all.begin(), all.begin() + room, all.end(), std::greater<uint64_t>());
  cut.score = all[room];  // the greatest score that is left out, or one equal to it
  uint64_t taken = 0;
  for (uint64_t score : file) taken += score > cut.score;
  for (uint64_t score : table) taken += score >= cut.score;
  cut.equals = taken < room ? room - taken : 0;
  return cut;
}

// Engine:
//   void Overwrite(const Rows&, uint8_t* status)  kUpdated, kLocked, or kSkipped: absent
//   uint64_t Grow(uint64_t absent)                makes room if it can; returns the capacity
//   uint64_t Size(), void Scores(std::vector<uint64_t>*), void EraseBelow(uint64_t score)
//   void Insert(const Rows&)                      absent keys
//   void Finish(std::vector<uint64_t>* left)      keys that left, or did not come in
template <class Engine>
class Loading {
 public:
  Loading(const TableFileReader& reader, Engine* engine)
      : reader_(reader), engine_(*engine), absent_(reader.rows()), counts_(reader.rows()) {}

  // Returns how many rows of the file are in the table.
  uint64_t Run() {
    std::vector<uint64_t> scores = Overwrite();
    if (!scores.empty()) {
      const uint64_t capacity = engine_.Grow(scores.size());
      if (scores.size() + engine_.Size() > capacity) {
        std::vector<uint64_t> others;
        engine_.Scores(&others);
        cut_ = CutTo(capacity, scores, others);
        engine_.EraseBelow(cut_.score);
      }
      scores = {};
      Insert();
    }
    std::vector<uint64_t> left;
    engine_.Finish(&left);
    if (!left.empty()) Forget(left);
    uint64_t in_table = 0;
    for (const bool counts : counts_) in_table += counts;
    return in_table;
  }

 private:
  // Calls visit(index of the first row, rows).
  template <class Visit>
  void ForChunks(Visit visit) {
    const uint64_t chunk = ChunkRows(reader_.row_bytes());
    for (uint64_t first = 0; first < reader_.rows(); first += chunk) {
      reader_.Read(first, std::min(chunk, reader_.rows() - first), &rows_);
      visit(first, rows_);
    }
  }

  // Returns the scores of the absent keys.
  std::vector<uint64_t> Overwrite() {
    std::vector<uint64_t> scores;
    std::vector<uint8_t> status;
    ForChunks([&](uint64_t first, const Rows& rows) {
      status.resize(rows.size());
      engine_.Overwrite(rows, status.data());
      for (size_t i = 0; i < rows.size(); ++i) {
        counts_[first + i] = status[i] == kUpdated;
        absent_[first + i] = status[i] == kSkipped;
        if (absent_[first + i]) scores.push_back(rows.scores[i]);
      }
    });
    return scores;
  }

  void Insert() {
    const size_t row_bytes = reader_.row_bytes();
    Rows taken;
    ForChunks([&](uint64_t first, const Rows& rows) {
      taken.Resize(0, row_bytes);
      for (size_t i = 0; i < rows.size(); ++i) {
        if (!absent_[first + i]) {
          if (rows.scores[i] < cut_.score) counts_[first + i] = false;
        } else if (cut_.Takes(rows.scores[i])) {
          taken.keys.push_back(rows.keys[i]);
          taken.scores.push_back(rows.scores[i]);
          const char* row = rows.values.data() + i * row_bytes;
          taken.values.insert(taken.values.end(), row, row + row_bytes);
          counts_[first + i] = true;
        }
      }
      if (taken.size() > 0) engine_.Insert(taken);
    });
  }

  void Forget(const std::vector<uint64_t>& left) {
    const std::unordered_set<uint64_t> gone(left.begin(), left.end());
    ForChunks([&](uint64_t first, const Rows& rows) {
      for (size_t i = 0; i < rows.size(); ++i) {
        if (gone.count(rows.keys[i]) > 0) counts_[first + i] = false;
      }
    });
  }

  const TableFileReader& reader_;
  Engine& engine_;
  Cut cut_;
  std::vector<bool> absent_, counts_;  // (rows of the file): the latter are in the table
  Rows rows_;
};

}  // namespace hkv
