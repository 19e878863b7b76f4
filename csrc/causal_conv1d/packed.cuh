// File: packed.cuh
//
// The forward of sequences that lie one behind the other, channel-last, each with a state line that
// it begins with and leaves behind. Two kinds of threads, so that a line has one owner and nothing
// waits for anything: the head of a sequence makes its first width - 1 tokens and its new line, and
// bodies make the other tokens, chunk by chunk, which need no line.
#pragma once

#include <cstdint>

#include "csrc/causal_conv1d/forward.cuh"

namespace accel::conv1d {

// Starts are as the caller wrote them: none leads out of the tokens.
ACCEL_DEVICE int Clamp(int value, int least, int most) { return Min(Max(value, least), most); }

// The first sequence that begins at `token` or behind it, or holds it.
ACCEL_DEVICE int FirstSequence(const int32_t* starts, int sequences, int token) {
  int low = 0, high = sequences;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (starts[middle] < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low > 0 && starts[low] > token ? low - 1 : low;
}

// The state line of a sequence; -1: the sequence is padding.
ACCEL_DEVICE int LineOf(const PackedArgs& a, int sequence) {
  if (a.lines == nullptr) return sequence;
  const int line = a.lines[sequence];
  return line == a.pad_line || line < 0 || line >= a.line_count ? -1 : line;
}

template <class T, int kTaps>
ACCEL_DEVICE void PackedHead(const PackedArgs& a, int sequence, int channel) {
  using Channels = Row<T, kChannels>;
  const int width = a.weights.width, history = width - 1;
  const int count = Min(kChannels, a.sizes.channels - channel);
  const int start = Clamp(a.starts[sequence], 0, a.sizes.tokens);
  const int length = Clamp(a.starts[sequence + 1], start, a.sizes.tokens) - start;
  const int line = LineOf(a, sequence);
  const T* x = At<T>(a.x, 0, channel, start);
  T* out = At<T>(a.out, 0, channel, start);
  if (line < 0) {
    for (int t = 0; t < Min(length, history); ++t) {
      StoreChannels<T, kChannels>(out, a.out, t, count, ZeroRow<T, kChannels>());
    }
    return;
  }
  const int accepted = a.accepted != nullptr ? a.accepted[sequence] : 0;
  const bool verifies = accepted >= 1 && history - 1 + length <= a.columns;
  const bool has = a.has_initial != nullptr ? a.has_initial[sequence] != 0 || accepted >= 1
                                            : a.all_initial != 0 || accepted >= 1;
  const int skipped = Min(Max(accepted - 1, 0), a.columns - history);
  const T* before = a.before.data != nullptr ? At<T>(a.before, line, channel, skipped) : nullptr;

  // Everything that the new line needs is read before it is written: first the old columns.
  Channels rows[2 * (kTaps - 1)];
#pragma unroll
  for (int k = 0; k < kTaps - 1; ++k) {
    const int column = k - (kTaps - 1 - history);
    rows[k] = has && before != nullptr && column >= 0
                  ? LoadChannels<T, kChannels>(before, a.before, column, count)
                  : ZeroRow<T, kChannels>();
  }
#pragma unroll
  for (int t = 0; t < kTaps - 1; ++t) {
    rows[kTaps - 1 + t] = t < Min(length, history) ? LoadChannels<T, kChannels>(x, a.x, t, count)
                                                   : ZeroRow<T, kChannels>();
  }
  const auto taps = LoadTaps<Accumulator<T>, kTaps, kChannels>(a.weights, channel, count);
  if (a.after.data != nullptr) {
    T* after = At<T>(a.after, line, channel, 0);
    if (verifies) {
      // All drafts stay, behind the history without its oldest column.
#pragma unroll
      for (int k = 1; k < kTaps - 1; ++k) {
        const int column = k - 1 - (kTaps - 1 - history);
        if (column >= 0) StoreChannels<T, kChannels>(after, a.after, column, count, rows[k]);
      }
      for (int t = 0; t < length; ++t) {
        StoreChannels<T, kChannels>(after, a.after, history - 1 + t, count,
                                    LoadChannels<T, kChannels>(x, a.x, t, count));
      }
    } else {
#pragma unroll
      for (int k = 0; k < kTaps - 1; ++k) {
        const int column = k - (kTaps - 1 - history);
        if (column < 0) continue;
        // The token of this column, counted from the sequence's first.
        const int token = length - history + column;
        const auto row = token >= 0 ? LoadChannels<T, kChannels>(x, a.x, token, count)
                                    : Pick(rows, kTaps - 1 + token);
        StoreChannels<T, kChannels>(after, a.after, column, count, row);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTaps - 1; ++t) {
    if (t >= Min(length, history)) break;
    StoreChannels<T, kChannels>(
        out, a.out, t, count,
        OutputRow<T, kTaps, false>(rows + t, taps, taps.used, a.weights.silu));
  }
}

template <class T, int kTaps>
ACCEL_DEVICE void PackedBody(const PackedArgs& a, int chunk, int channel) {
  const Sizes& s = a.sizes;
  const int count = Min(kChannels, s.channels - channel), history = a.weights.width - 1;
  const int first = chunk * s.chunk, last = Min(first + s.chunk, s.tokens);
  const T* x = At<T>(a.x, 0, channel, 0);
  T* out = At<T>(a.out, 0, channel, 0);
  const auto taps = LoadTaps<Accumulator<T>, kTaps, kChannels>(a.weights, channel, count);
  int sequence = FirstSequence(a.starts, a.sequences, first);
  int end = sequence < a.sequences ? Clamp(a.starts[sequence], 0, s.tokens) : last;
  const bool whole = a.x.whole && a.out.whole && count >= kChannels;
  const Column<T> column{x,           out,   a.x.channel, a.x.token, a.out.channel,
                         a.out.token, count, whole,       nullptr};
  for (; sequence < a.sequences && end < last; ++sequence) {
    const int start = end;
    end = Clamp(a.starts[sequence + 1], start, s.tokens);
    const int from = Max(first, start + history), to = Min(last, end);
    if (from >= to) continue;
    if (LineOf(a, sequence) < 0) {
      for (int t = from; t < to; ++t) {
        StoreChannels<T, kChannels>(out, a.out, t, count, ZeroRow<T, kChannels>());
      }
      continue;
    }
    Window<T, kTaps, false> window;
#pragma unroll
    for (int k = 0; k < kTaps - 1; ++k) {
      const int token = from - (kTaps - 1) + k;
      window.rows[k] = token >= start ? LoadChannels<T, kChannels>(x, a.x, token, count)
                                      : ZeroRow<T, kChannels>();
    }
    Walk<T, kTaps, false>(column, taps, a.weights.silu, from, to, &window);
  }
  // Behind the last sequence.
  for (int t = Max(first, Max(a.starts[a.sequences], 0)); t < last; ++t) {
    StoreChannels<T, kChannels>(out, a.out, t, count, ZeroRow<T, kChannels>());
  }
}

template <class T, int kTaps>
ACCEL_DEVICE void Packed(const PackedArgs& a) {
  const int64_t job = BlockId() * kThreads + ThreadId();
  const int64_t bodies = static_cast<int64_t>(a.sizes.chunks) * a.sizes.groups;
  const int channel = static_cast<int>(job % a.sizes.groups) * kChannels;
  const int64_t which = job / a.sizes.groups;
  if (job < bodies) {
    PackedBody<T, kTaps>(a, static_cast<int>(which), channel);
  } else if (which - a.sizes.chunks < a.sequences) {
    PackedHead<T, kTaps>(a, static_cast<int>(which - a.sizes.chunks), channel);
  }
}

}  // namespace accel::conv1d
