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

// The first sequence that begins at `token` or behind it, or holds it: the lanes of a group look at
// 32 starts at once.
ACCEL_DEVICE int FirstSequence(const int32_t* starts, int sequences, int token) {
  int low = 0, left = sequences;  // the first start that is not before the token: low to low + left
  while (left > 0) {
    const int step = CeilDiv(left, kGroup), at = Lane() * step;
    int before = at < left && starts[low + at] < token;
#pragma unroll
    for (int d = kGroup / 2; d > 0; d /= 2) before += Shuffle(before, Lane() ^ d);
    if (before == 0) break;
    const int passed = (before - 1) * step + 1;
    low += passed;
    left = Min(step - 1, left - passed);
  }
  return Shuffle(low > 0 && starts[low] > token ? low - 1 : low, 0);
}

// The state line of a sequence; -1: the sequence is padding.
ACCEL_DEVICE int LineOf(const PackedArgs& a, int sequence) {
  if (a.lines == nullptr) return sequence;
  const int line = a.lines[sequence];
  return line == a.pad_line || line < 0 || line >= a.line_count ? -1 : line;
}

template <class T, int kTaps>
ACCEL_DEVICE void PackedHead(const PackedArgs& a, int sequence, int channel) {
  constexpr int N = ChannelsFor(kTaps, sizeof(T));
  using Channels = Row<T, N>;
  const int width = a.weights.width, history = width - 1;
  const int count = Min(N, a.sizes.channels - channel);
  const int start = Clamp(a.starts[sequence], 0, a.sizes.tokens);
  const int length = Clamp(a.starts[sequence + 1], start, a.sizes.tokens) - start;
  const int line = LineOf(a, sequence);
  const T* x = At<T>(a.x, 0, channel, start);
  T* out = At<T>(a.out, 0, channel, start);
  if (line < 0) {
    for (int t = 0; t < Min(length, history); ++t) {
      StoreChannels<T, N>(out, a.out, t, count, ZeroRow<T, N>());
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
                  ? LoadChannels<T, N>(before, a.before, column, count)
                  : ZeroRow<T, N>();
  }
#pragma unroll
  for (int t = 0; t < kTaps - 1; ++t) {
    rows[kTaps - 1 + t] =
        t < Min(length, history) ? LoadChannels<T, N>(x, a.x, t, count) : ZeroRow<T, N>();
  }
  const auto taps = LoadTaps<Accumulator<T>, kTaps, N>(a.weights, channel, count);
  if (a.after.data != nullptr) {
    T* after = At<T>(a.after, line, channel, 0);
    if (verifies) {
      // All drafts stay, behind the history without its oldest column.
#pragma unroll
      for (int k = 1; k < kTaps - 1; ++k) {
        const int column = k - 1 - (kTaps - 1 - history);
        if (column >= 0) StoreChannels<T, N>(after, a.after, column, count, rows[k]);
      }
      for (int t = 0; t < length; ++t) {
        StoreChannels<T, N>(after, a.after, history - 1 + t, count,
                            LoadChannels<T, N>(x, a.x, t, count));
      }
    } else {
#pragma unroll
      for (int k = 0; k < kTaps - 1; ++k) {
        const int column = k - (kTaps - 1 - history);
        if (column < 0) continue;
        // The token of this column, counted from the sequence's first.
        const int token = length - history + column;
        const auto row =
            token >= 0 ? LoadChannels<T, N>(x, a.x, token, count) : Pick(rows, kTaps - 1 + token);
        StoreChannels<T, N>(after, a.after, column, count, row);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTaps - 1; ++t) {
    if (t >= Min(length, history)) break;
    StoreChannels<T, N>(out, a.out, t, count,
                        OutputRow<T, kTaps, false, N>(rows + t, taps, taps.used, a.weights.silu));
  }
}

template <class T, int kTaps>
ACCEL_DEVICE void PackedBody(const PackedArgs& a, int chunk, int channel) {
  constexpr int N = ChannelsFor(kTaps, sizeof(T));
  const Sizes& s = a.sizes;
  const int count = Clamp(s.channels - channel, 0, N), history = a.weights.width - 1;
  const int first = chunk * s.chunk, last = Min(first + s.chunk, s.tokens);
  const T* x = At<T>(a.x, 0, channel, 0);
  T* out = At<T>(a.out, 0, channel, 0);
  const auto taps =
      LoadTaps<Accumulator<T>, kTaps, N>(a.weights, Min(channel, s.channels - 1), count);
  const bool whole = a.x.whole && a.out.whole && count >= N;
  const Column<T> column{x,           out,   a.x.channel, a.x.token, a.out.channel,
                         a.out.token, count, whole,       nullptr};
  const auto zero = [&](int from, int to) {
    for (int t = from; t < to; ++t) StoreChannels<T, N>(out, a.out, t, count, ZeroRow<T, N>());
  };
  // The lanes hold the starts of a group of sequences, so that all see the same ones.
  int sequence = FirstSequence(a.starts, a.sequences, first);
  int held = sequence, starts = Clamp(a.starts[Min(held + Lane(), a.sequences)], 0, s.tokens);
  int end = Shuffle(starts, 0);
  for (; sequence < a.sequences && end < last; ++sequence) {
    if (sequence + 1 - held == kGroup) {
      held = sequence + 1;
      starts = Clamp(a.starts[Min(held + Lane(), a.sequences)], 0, s.tokens);
    }
    const int start = end;
    end = Max(Shuffle(starts, sequence + 1 - held), start);
    const int from = Max(first, start + history), to = Min(last, end);
    if (from >= to) continue;
    if (Shuffle(LineOf(a, sequence), 0) < 0) {
      zero(from, to);
      continue;
    }
    Window<T, kTaps, N, false> window;
#pragma unroll
    for (int k = 0; k < kTaps - 1; ++k) {
      const int token = from - (kTaps - 1) + k;
      window.rows[k] = token >= start ? LoadChannels<T, N>(x, a.x, token, count) : ZeroRow<T, N>();
    }
    // Short rounds: where a sequence begins, rows are left over.
    Walk<T, kTaps, N, false, kInFlight>(column, taps, a.weights.silu, from, to, &window);
  }
  zero(Max(first, Max(a.starts[a.sequences], 0)), last);  // behind the last sequence
}

template <class T, int kTaps>
ACCEL_DEVICE void Packed(const PackedArgs& a) {
  const int tiles = CeilDiv(a.sizes.groups, kGroup);
  const int64_t job = BlockId() * (kThreads / kGroup) + Group();
  const int64_t which = job / tiles;
  const int channel =
      (static_cast<int>(job % tiles) * kGroup + Lane()) * ChannelsFor(kTaps, sizeof(T));
  if (which < a.sizes.chunks) {
    PackedBody<T, kTaps>(a, static_cast<int>(which), channel);
  } else if (which - a.sizes.chunks < a.sequences && channel < a.sizes.channels) {
    PackedHead<T, kTaps>(a, static_cast<int>(which - a.sizes.chunks), channel);
  }
}

}  // namespace accel::conv1d
