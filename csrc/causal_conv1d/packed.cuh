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

// How many starts lie before `token`: the lanes of a group look at up to 256 at once.
ACCEL_DEVICE int StartsBefore(const int32_t* starts, int sequences, int token) {
  constexpr int kLooks = 8;
  int low = 0, left = sequences;  // the first start that is not before: low to low + left
  while (left > kLooks * kGroup) {
    const int step = CeilDiv(left, kGroup), at = Lane() * step;
    const int before = CountBits(Ballot(at < left && starts[low + at] < token));
    if (before == 0) return low;
    const int passed = (before - 1) * step + 1;
    low += passed;
    left = Min(step - 1, left - passed);
  }
  int before = 0;
#pragma unroll
  for (int i = 0; i < kLooks; ++i) {
    const int at = i * kGroup + Lane();
    before += CountBits(Ballot(at < left && starts[low + at] < token));
  }
  return low + before;
}

// The first sequence that begins at `token` or behind it, or holds it.
ACCEL_DEVICE int FirstSequence(const int32_t* starts, int sequences, int token) {
  const int low = StartsBefore(starts, sequences, token);
  return Shuffle(low > 0 && starts[low] > token ? low - 1 : low, 0);
}

// The state line of a sequence; -1: the sequence is padding.
ACCEL_DEVICE int LineOf(const PackedArgs& a, int sequence) {
  if (a.lines == nullptr) return sequence;
  const int line = a.lines[sequence];
  return line == a.pad_line || line < 0 || line >= a.line_count ? -1 : line;
}

// `kWhole`: all rows are loaded and stored at once. All that a head needs to know of its sequence
// is asked for together, then all rows are.
template <class T, int kTaps, bool kWhole>
ACCEL_DEVICE void PackedHead(const PackedArgs& a, int sequence, int channel) {
  constexpr int N = ChannelsFor(kTaps, sizeof(T)), kBefore = kTaps - 1;
  using Channels = Row<T, N>;
  const int width = a.weights.width, history = width - 1;
  const int count = Min(N, a.sizes.channels - channel);
  const auto load = [&](const T* base, const Values& v, int at) {
    return LoadRow<T, N>(base + at * v.token, v.channel, count, kWhole || (v.whole && count >= N));
  };
  const auto store = [&](T* base, const Values& v, int at, const Channels& row) {
    const bool whole = kWhole || (v.whole && count >= N);
    StoreRow<T, N>(base + at * v.token, v.channel, count, whole, row);
  };
  const int line = LineOf(a, sequence);
  const int accepted = a.accepted != nullptr ? a.accepted[sequence] : 0;
  const int has_line = a.has_initial != nullptr ? a.has_initial[sequence] : a.all_initial;
  const int start = Clamp(a.starts[sequence], 0, a.sizes.tokens);
  const int length = Clamp(a.starts[sequence + 1], start, a.sizes.tokens) - start;
  const int outputs = Min(length, history);
  const T* x = At<T>(a.x, 0, channel, start);
  T* out = At<T>(a.out, 0, channel, start);
  if (line < 0) {
    for (int t = 0; t < outputs; ++t) store(out, a.out, t, ZeroRow<T, N>());
    return;
  }
  const bool verifies = accepted >= 1 && history - 1 + length <= a.columns;
  const bool has = has_line != 0 || accepted >= 1;
  const int skipped = Min(Max(accepted - 1, 0), a.columns - history);
  const T* before = a.before.data != nullptr ? At<T>(a.before, line, channel, skipped) : nullptr;

  // Everything that the new line needs is read before it is written.
  Channels rows[2 * kBefore], tail[kBefore];
#pragma unroll
  for (int k = 0; k < kBefore; ++k) {
    const int column = k - (kBefore - history);
    rows[k] = ZeroRow<T, N>();
    if (has && before != nullptr && column >= 0) rows[k] = load(before, a.before, column);
  }
#pragma unroll
  for (int t = 0; t < kBefore; ++t) {
    rows[kBefore + t] = ZeroRow<T, N>();
    if (t < outputs) rows[kBefore + t] = load(x, a.x, t);
  }
#pragma unroll
  for (int k = 0; k < kBefore; ++k) {
    // The token of this column, counted from the sequence's first.
    const int token = length - kBefore + k;
    tail[k] = ZeroRow<T, N>();
    if (token >= history) tail[k] = load(x, a.x, token);
  }
  const auto taps = LoadTaps<Accumulator<T>, kTaps, N>(a.weights, channel, count);
  if (a.after.data != nullptr) {
    T* after = At<T>(a.after, line, channel, 0);
    if (verifies) {
      // All drafts stay, behind the history without its oldest column.
#pragma unroll
      for (int k = 1; k < kBefore; ++k) {
        const int column = k - 1 - (kBefore - history);
        if (column >= 0) store(after, a.after, column, rows[k]);
      }
      for (int t = 0; t < length; ++t) store(after, a.after, history - 1 + t, load(x, a.x, t));
    } else {
#pragma unroll
      for (int k = 0; k < kBefore; ++k) {
        const int column = k - (kBefore - history), token = length - kBefore + k;
        if (column < 0) continue;
        store(after, a.after, column, token >= history ? tail[k] : Pick(rows, kBefore + token));
      }
    }
  }
  const AllTaps<kTaps> counts{taps.used};
#pragma unroll
  for (int t = 0; t < kBefore; ++t) {
    if (t >= outputs) break;
    store(out, a.out, t, OutputRow<T, kTaps, N>(rows + t, taps, counts, a.weights.silu));
  }
}

// What becomes of 32 tokens, a bit each: those that have a body's output have all taps in their
// sequence. The others are a head's.
template <int kTaps>
struct BodyTokens : AllTokens<kTaps> {
  uint32_t outputs = 0, zeros = 0;

  // Of the tokens [first, last): a lane looks at a sequence, and at its line.
  ACCEL_DEVICE BodyTokens(const PackedArgs& a, uint32_t used, int first, int last)
      : AllTokens<kTaps>{used} {
    const int tokens = a.sizes.tokens, history = a.weights.width - 1;
    const auto bits = [&](int from, int to) {  // of the tokens [from, to)
      from = Clamp(from - first, 0, kGroup), to = Clamp(to - first, from, kGroup);
      const uint32_t below = from < kGroup ? ~0u << from : 0;
      return below & ~(to < kGroup ? ~0u << to : 0);
    };
    int sequence = Max(StartsBefore(a.starts, a.sequences, first) - 1, 0) + Lane();
    for (bool more = true; more; sequence += kGroup) {
      int start = tokens;
      if (sequence < a.sequences) {
        start = Clamp(a.starts[sequence], 0, tokens);
        const int end = Clamp(a.starts[sequence + 1], start, tokens);
        (LineOf(a, sequence) < 0 ? zeros : outputs) |= bits(start + history, end);
      }
      more = Shuffle(start, kGroup - 1) < last;
    }
    outputs = OrOfGroup(outputs);
    zeros = OrOfGroup(zeros);
    zeros |= bits(Max(a.starts[a.sequences], 0), tokens);  // behind the last sequence
  }

  ACCEL_DEVICE bool None() const { return (outputs | zeros) == 0; }
  ACCEL_DEVICE bool Stores(int i) const { return ((outputs | zeros) >> i & 1) != 0; }
  ACCEL_DEVICE bool There(int i) const { return (zeros >> i & 1) == 0; }
  ACCEL_DEVICE void Skip(int many) { outputs >>= many, zeros >>= many; }
};

template <class T, int kTaps>
ACCEL_DEVICE void PackedBody(const PackedArgs& a, int chunk, int channel) {
  constexpr int N = ChannelsFor(kTaps, sizeof(T));
  const Sizes& s = a.sizes;
  const int count = Clamp(s.channels - channel, 0, N);
  const T* x = At<T>(a.x, 0, channel, 0);
  const Column<T> column{x,
                         At<T>(a.out, 0, channel, 0),
                         a.x.channel,
                         a.x.token,
                         a.out.channel,
                         a.out.token,
                         count,
                         a.x.whole && a.out.whole && count >= N};
  const auto taps =
      LoadTaps<Accumulator<T>, kTaps, N>(a.weights, Min(channel, s.channels - 1), count);
  const int last = Min((chunk + 1) * s.chunk, s.tokens);
  for (int t = chunk * s.chunk; t < last; t += kGroup) {
    const int to = Min(t + kGroup, last);
    Row<T, N> before[kTaps - 1];
#pragma unroll
    for (int k = 0; k < kTaps - 1; ++k) {
      const int token = t - (kTaps - 1) + k;
      before[k] = token >= 0 ? LoadChannels<T, N>(x, a.x, token, count) : ZeroRow<T, N>();
    }
    Walk<T, kTaps, N, kAhead<T>, true>(
        column, taps, a.weights.silu, t, to, [&] { return BodyTokens<kTaps>(a, taps.used, t, to); },
        before);
  }
}

template <class T, int kTaps>
ACCEL_DEVICE void Packed(const PackedArgs& a) {
  constexpr int N = ChannelsFor(kTaps, sizeof(T));
  const uint32_t tiles = CeilDiv(a.sizes.groups, kGroup);
  const uint32_t job = GroupJob();
  const int64_t which = job / tiles;
  const int channel = (static_cast<int>(job % tiles) * kGroup + Lane()) * N;
  const int64_t sequence = which - a.sizes.chunks;
  if (sequence < 0) {
    PackedBody<T, kTaps>(a, static_cast<int>(which), channel);
  } else if (sequence < a.sequences && channel < a.sizes.channels) {
    const auto whole = [](const Values& v) { return v.data == nullptr || v.whole; };
    if (whole(a.x) && whole(a.out) && whole(a.before) && whole(a.after) &&
        channel + N <= a.sizes.channels) {
      PackedHead<T, kTaps, true>(a, static_cast<int>(sequence), channel);
    } else {
      PackedHead<T, kTaps, false>(a, static_cast<int>(sequence), channel);
    }
  }
}

}  // namespace accel::conv1d
