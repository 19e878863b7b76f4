// File: plan.h
//
// How a call's work is cut into threads: what is known from sizes alone.
#pragma once

#include <cstdint>

#include "csrc/causal_conv1d/conv.h"
#include "csrc/common/portable.h"

namespace accel::conv1d {

// What a device runs at once, about: more threads than that only make the last round shorter.
struct Device {
  int processors = 0;
  int forced_chunk = 0;  // of all walks, for tests; 0: as the sizes say
};

constexpr int kGroupLanes = 32;
constexpr int kForwardSteps = 8, kBackwardSteps = 32;  // of channel-first that a group takes

inline int Rounded(int64_t chunk, int multiple, int most) {
  const int64_t wanted = CeilDiv(Max<int64_t>(chunk, 1), static_cast<int64_t>(multiple)) * multiple;
  return static_cast<int>(Min<int64_t>(wanted, most));
}

// Rows before a chunk are read again; chunks that run at the same time find them in the cache.
inline int ForwardWalk(int value_bytes) { return value_bytes == 2 ? 32 : 16; }
constexpr int kPackedWalk = 32;
inline int BackwardWalk(int value_bytes) { return value_bytes == 2 ? 256 : 208; }

// Channel-last: a lane for `each` channels and a chunk of tokens, `longest` if the device is full.
inline Sizes WalkSizes(int batch, int channels, int tokens, int each, const Device& device,
                       int longest) {
  Sizes s{batch, channels, tokens, CeilDiv(channels, each), 0, 0};
  const int64_t rows = static_cast<int64_t>(batch) * CeilDiv(s.groups, kGroupLanes) * tokens;
  const int64_t groups = static_cast<int64_t>(device.processors) * 16;
  s.chunk = device.forced_chunk > 0 ? device.forced_chunk : Rounded(rows / groups, 8, longest);
  s.chunks = Max(CeilDiv(tokens, s.chunk), 1);
  return s;
}

// The threads of a walk: a group of lanes has neighbouring channels of one chunk.
inline int64_t WalkThreads(const Sizes& s, int64_t chunks) {
  return chunks * CeilDiv(s.groups, kGroupLanes) * kGroupLanes;
}

// Channel-first: a group of lanes for a channel and a chunk of steps, 512 bytes each. `lead` values
// at most may lie before the first token.
inline Sizes LineSizes(int batch, int channels, int tokens, int value_bytes, int lead, int longest,
                       const Device& device) {
  Sizes s{batch, channels, tokens, channels, 0, 0};
  const int64_t a_step = 16 / value_bytes * kGroupLanes;
  const int64_t steps = Max<int64_t>(CeilDiv(static_cast<int64_t>(tokens) + lead, a_step), 1);
  const int64_t lines = Max<int64_t>(static_cast<int64_t>(batch) * channels, 1);
  const int64_t wanted = CeilDiv(static_cast<int64_t>(device.processors) * 32, lines);
  s.chunk = device.forced_chunk > 0 ? device.forced_chunk
                                    : Rounded(CeilDiv(steps, wanted), 8, Max(longest, 8));
  s.chunks = static_cast<int>(CeilDiv(steps, static_cast<int64_t>(s.chunk)));
  return s;
}

// Sequences that a thread of update takes one after the other: its taps are loaded once.
inline int UpdateChunk(int batch, int groups, const Device& device) {
  const int64_t threads = static_cast<int64_t>(device.processors) * 1024;
  return static_cast<int>(Max<int64_t>(CeilDiv<int64_t>(int64_t{batch} * groups, threads), 1));
}

}  // namespace accel::conv1d
