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

constexpr int kLongestWalk = 128;  // tokens: the rows before a chunk are read again
constexpr int kGroupLanes = 32;

inline int Rounded(int64_t chunk, int multiple, int most) {
  const int64_t wanted = CeilDiv(Max<int64_t>(chunk, 1), static_cast<int64_t>(multiple)) * multiple;
  return static_cast<int>(Min<int64_t>(wanted, most));
}

// Channel-last: a thread for kChannels channels (or `channels_each`) and a chunk of tokens.
inline Sizes WalkSizes(int batch, int channels, int tokens, const Device& device, int rounds) {
  Sizes s{batch, channels, tokens, CeilDiv(channels, kChannels), 0, 0};
  const int64_t rows = static_cast<int64_t>(batch) * s.groups * tokens;
  const int64_t threads = static_cast<int64_t>(device.processors) * rounds;
  s.chunk =
      device.forced_chunk > 0 ? device.forced_chunk : Rounded(rows / threads, 8, kLongestWalk);
  s.chunks = Max(CeilDiv(tokens, s.chunk), 1);
  return s;
}

// Channel-first: a group of lanes for a channel and a chunk of steps, 512 bytes each. `lead` values
// at most may lie before the first token.
inline Sizes LineSizes(int batch, int channels, int tokens, int value_bytes, int lead,
                       const Device& device) {
  Sizes s{batch, channels, tokens, channels, 0, 0};
  const int64_t a_step = 16 / value_bytes * kGroupLanes;
  const int64_t steps = Max<int64_t>(CeilDiv(static_cast<int64_t>(tokens) + lead, a_step), 1);
  const int64_t lines = Max<int64_t>(static_cast<int64_t>(batch) * channels, 1);
  const int64_t wanted = CeilDiv(static_cast<int64_t>(device.processors) * 128, lines);
  s.chunk = device.forced_chunk > 0
                ? device.forced_chunk
                : Rounded(CeilDiv(steps, wanted), 4, static_cast<int>(Max<int64_t>(steps, 4)));
  s.chunks = static_cast<int>(CeilDiv(steps, static_cast<int64_t>(s.chunk)));
  return s;
}

}  // namespace accel::conv1d
