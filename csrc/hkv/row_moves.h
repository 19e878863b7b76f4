// File: row_moves.h
//
// The rows of a host table, in memory that can grow without being there twice, and their
// rearrangement in place.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace hkv {

class RowMemory {
 public:
  RowMemory() = default;
  RowMemory(const RowMemory&) = delete;
  RowMemory& operator=(const RowMemory&) = delete;
  RowMemory(RowMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  RowMemory& operator=(RowMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~RowMemory() { std::free(data_); }

  // What was there stays; std::bad_alloc changes nothing. Large memory moves without a copy.
  void Resize(uint64_t bytes) {
    void* const data = std::realloc(data_, bytes);
    if (data == nullptr) throw std::bad_alloc();
    data_ = static_cast<char*>(data);
  }

  char* operator[](uint64_t offset) const { return data_ + offset; }

 private:
  char* data_ = nullptr;
};

constexpr uint32_t kStays = 0xffffffff;

// Moves each row r with to[r] != kStays to the row to[r]; the targets are distinct, and none holds
// a row that stays. `spare` has room for two rows.
inline void MoveRows(const RowMemory& rows, size_t row_bytes, std::vector<uint32_t> to,
                     char* spare) {
  char *carried = spare, *met = spare + row_bytes;
  for (uint64_t start = 0; start < to.size(); ++start) {
    uint32_t target = std::exchange(to[start], kStays);
    if (target == kStays) continue;
    std::memcpy(carried, rows[start * row_bytes], row_bytes);
    for (;;) {
      const uint32_t next = target < to.size() ? std::exchange(to[target], kStays) : kStays;
      char* const place = rows[target * row_bytes];
      if (next != kStays) std::memcpy(met, place, row_bytes);
      std::memcpy(place, carried, row_bytes);
      if (next == kStays) break;
      std::swap(carried, met);
      target = next;
    }
  }
}

}  // namespace hkv
