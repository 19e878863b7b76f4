// File: allocator.h
//
// Where a GPU table's memory comes from: CUDA itself, or a caller's allocator. Three words that C
// can spell, so that any language can bring its own (PyTorch's caching allocator, a pool, a
// budget). Nothing here needs CUDA.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace hkv {

enum class MemoryKind : int32_t {
  kDevice = 0,      // of the current device, aligned to 256 bytes
  kPinnedHost = 1,  // of the host, where every device reaches it by the same address
};

struct Allocator {
  void* context = nullptr;  // handed on to both
  // Memory that no work in flight uses any more; null: there is none. Must not throw.
  void* (*allocate)(void* context, MemoryKind kind, uint64_t bytes) = nullptr;
  // Takes back what allocate gave, on the same device, when the device has done all that uses it.
  void (*free)(void* context, MemoryKind kind, void* memory, uint64_t bytes) = nullptr;
};

// There is no memory for a call. The table is as it was before the call.
struct MemoryRefused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace hkv
