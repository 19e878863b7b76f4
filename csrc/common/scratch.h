// File: scratch.h
//
// How one allocation of device scratch is divided.
#pragma once

#include <cstddef>

namespace accel {

// Parts of scratch memory start at multiples of this.
constexpr size_t kScratchAlignment = 256;

constexpr size_t AlignScratch(size_t bytes) {
  return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
}

// Hands out the parts one after the other:
//
//   ScratchLayout layout;
//   at.keys = layout.Add(n * sizeof(int64_t));
//   at.counts = layout.Add(n * sizeof(int32_t));
//   at.bytes = layout.bytes();
class ScratchLayout {
 public:
  // The offset of a part of so many bytes.
  constexpr size_t Add(size_t bytes) {
    const size_t at = bytes_;
    bytes_ += AlignScratch(bytes);
    return at;
  }

  // Of all parts.
  constexpr size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

}  // namespace accel
