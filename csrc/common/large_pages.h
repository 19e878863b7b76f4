// File: large_pages.h
//
// Asks the kernel for pages of 2 MiB. Memory comes at its first touch, a page at a time: in pages
// of 4 KiB a large output costs as much for that as for its bytes, and of rows all over a table
// each needs its page looked up.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace accel {

// Of memory that was just allocated. What the kernel refuses stays as it is.
inline void InLargePages(void* data, size_t bytes) {
  constexpr size_t kPage = 1 << 21, kWorthIt = 1 << 25;
  if (bytes < kWorthIt) return;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), (begin + bytes - first) / kPage * kPage, MADV_HUGEPAGE);
}

}  // namespace accel
