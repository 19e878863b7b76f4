// File: update.cuh
//
// A few tokens behind those that a state line remembers, for every line of a batch. The line is
// shifted, or it is a circle in which the tokens so far say where the next one goes.
#pragma once

#include <cstdint>

#include "csrc/causal_conv1d/conv.cuh"

namespace accel::conv1d {

// Shifts the columns before the last `history` by the tokens of x, oldest column first: what is
// read was not yet written. The last ones are in `rows`.
template <class T, int kTaps>
ACCEL_DEVICE void Shift(T* state, const UpdateArgs& a, const T* x, int count,
                        const Row<T, kUpdateChannels> (&rows)[kTaps]) {
  constexpr int kN = kUpdateChannels;
  const int tokens = a.sizes.tokens, history = a.weights.width - 1;
  for (int column = 0; column < a.columns - history; ++column) {
    const int from = column + tokens;
    const auto row = from < a.columns ? LoadChannels<T, kN>(state, a.state, from, count)
                                      : LoadChannels<T, kN>(x, a.x, from - a.columns, count);
    StoreChannels<T, kN>(state, a.state, column, count, row);
  }
#pragma unroll
  for (int k = 0; k < kTaps - 1; ++k) {
    const int column = a.columns - (kTaps - 1) + k;
    if (kTaps - 1 - k <= history) StoreChannels<T, kN>(state, a.state, column, count, rows[k]);
  }
}

// One token behind a line whose columns lie side by side, kColumns of each channel: read and
// written as one, in pieces of kN values or, if they are wide, of 16 bytes. rows[0 .. kTaps - 2]
// become its last columns.
template <class T, int kTaps, int kColumns>
struct FlatLine {
  static constexpr int kN = kUpdateChannels, kBefore = kTaps - 1;
  static constexpr int kWide = 16 / static_cast<int>(sizeof(T)), kValues = kN * kColumns;
  static constexpr int kPiece = kValues % kWide == 0 ? kWide : kN;
  Row<T, kPiece> piece[kValues / kPiece];

  static ACCEL_DEVICE bool Holds(const Values& v) {
    constexpr int kBytes = kPiece * static_cast<int>(sizeof(T));
    return reinterpret_cast<uintptr_t>(v.data) % kBytes == 0 && v.sequence % kPiece == 0;
  }

  ACCEL_DEVICE void Load(const T* state, Row<T, kN> (&rows)[kTaps]) {
#pragma unroll
    for (int p = 0; p < kValues / kPiece; ++p) {
      piece[p] = LoadRow<T, kPiece>(state + p * kPiece, 1, kPiece, true);
    }
#pragma unroll
    for (int k = 0; k < kBefore; ++k) {
      rows[k] = ZeroRow<T, kN>();
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const int at = i * kColumns + kColumns - kBefore + k;
        Put(&rows[k], i, Take(piece[at / kPiece], at % kPiece));
      }
    }
  }

  ACCEL_DEVICE void StoreShifted(T* state, const Row<T, kN>& x) const {
#pragma unroll
    for (int p = 0; p < kValues / kPiece; ++p) {
      auto row = ZeroRow<T, kPiece>();
#pragma unroll
      for (int j = 0; j < kPiece; ++j) {
        const int at = p * kPiece + j, i = at / kColumns, column = at % kColumns;
        const int from = Min(at + 1, kValues - 1);
        Put(&row, j,
            column == kColumns - 1 ? Take(x, i) : Take(piece[from / kPiece], from % kPiece));
      }
      StoreRow<T, kPiece>(state + p * kPiece, 1, kPiece, true, row);
    }
  }
};

// The state line of a sequence; -1: there is none.
ACCEL_DEVICE int StateLine(const UpdateArgs& a, int sequence) {
  const int line = a.lines != nullptr ? a.lines[sequence] : sequence;
  return line < a.line_count ? line : -1;
}

// Whether OneToken is the way for all channels of a call but an unfinished vector of the last ones.
template <class T, int kTaps>
ACCEL_DEVICE bool ByOneToken(const UpdateArgs& a) {
  const bool flat = a.flat && (a.columns < kTaps || FlatLine<T, kTaps, kTaps>::Holds(a.state));
  return a.sizes.tokens == 1 && a.lengths == nullptr && a.weights.width == kTaps && a.x.whole &&
         a.out.whole && (flat || (!a.flat && a.state.whole)) && a.columns <= kTaps;
}

template <class T, int kTaps>
ACCEL_DEVICE void OneToken(const UpdateArgs& a,
                           const Taps<Accumulator<T>, kTaps, kUpdateChannels>& taps, int sequence,
                           int channel) {
  constexpr int kN = kUpdateChannels, kBefore = kTaps - 1;
  using Channels = Row<T, kN>;
  Channels rows[kTaps];
  rows[kBefore] = LoadRow<T, kN>(At<T>(a.x, sequence, channel, 0), 1, kN, true);
  T* out = At<T>(a.out, sequence, channel, 0);
  const int line = StateLine(a, sequence);
  if (line < 0) return StoreRow<T, kN>(out, 1, kN, true, ZeroRow<T, kN>());
  const bool roomy = a.columns == kTaps;
  T* state = At<T>(a.state, line, channel, 0);
  const auto column = [&](int k) { return state + (k + roomy) * a.state.token; };
  const auto store = [&](auto shifted) {
    Accumulator<T> result[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const auto under = [&](int k) { return Get(rows[k], i); };
      result[i] = Activated<T>(Convolved(taps, i, EveryTap<kTaps>(), under), a.weights.silu);
    }
    StoreRow<T, kN>(out, 1, kN, true, Rounded<T, kN>(result));
    shifted();
  };
  if (!a.flat) {
#pragma unroll
    for (int k = 0; k < kBefore; ++k) rows[k] = LoadRow<T, kN>(column(k), 1, kN, true);
    store([&] {
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        if (k > 0 || roomy) StoreRow<T, kN>(column(k - 1), 1, kN, true, rows[k]);
      }
    });
  } else if (roomy) {
    FlatLine<T, kTaps, kTaps> piece;
    piece.Load(state, rows);
    store([&] { piece.StoreShifted(state, rows[kBefore]); });
  } else {
    FlatLine<T, kTaps, kBefore> piece;
    piece.Load(state, rows);
    store([&] { piece.StoreShifted(state, rows[kBefore]); });
  }
}

template <class T, int kTaps>
ACCEL_DEVICE void UpdateLine(const UpdateArgs& a,
                             const Taps<Accumulator<T>, kTaps, kUpdateChannels>& taps, int sequence,
                             int channel, int count) {
  constexpr int kN = kUpdateChannels, kBefore = kTaps - 1;
  const Sizes& s = a.sizes;
  const int width = a.weights.width;
  const T* x = At<T>(a.x, sequence, channel, 0);
  T* out = At<T>(a.out, sequence, channel, 0);
  // All that is read is asked for before the first of it is waited for.
  Row<T, kN> rows[kTaps];
  rows[kBefore] = s.tokens > 0 ? LoadChannels<T, kN>(x, a.x, 0, count) : ZeroRow<T, kN>();
  const int line = StateLine(a, sequence);
  if (line < 0) {
    for (int t = 0; t < s.tokens; ++t) {
      StoreChannels<T, kN>(out, a.out, t, count, ZeroRow<T, kN>());
    }
    return;
  }
  T* state = At<T>(a.state, line, channel, 0);
  const bool circle = a.lengths != nullptr;
  int next = a.columns;  // where the first token would stand
  if (circle) {
    next = a.lengths[sequence] % a.columns;
    if (next < 0) next += a.columns;
  }
#pragma unroll
  for (int k = 0; k < kBefore; ++k) {
    int column = next - kBefore + k;
    if (circle && column < 0) column += a.columns;
    rows[k] =
        kBefore - k < width ? LoadChannels<T, kN>(state, a.state, column, count) : ZeroRow<T, kN>();
  }
  for (int t = 0; t < s.tokens; ++t) {
    if (t > 0) rows[kBefore] = LoadChannels<T, kN>(x, a.x, t, count);
    Accumulator<T> result[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const auto under = [&](int k) { return Get(rows[k], i); };
      result[i] =
          Activated<T>(Convolved(taps, i, AllTaps<kTaps>{taps.used}, under), a.weights.silu);
    }
    StoreChannels<T, kN>(out, a.out, t, count, Rounded<T, kN>(result));
    if (circle) {
      StoreChannels<T, kN>(state, a.state, next, count, rows[kBefore]);
      next = next + 1 == a.columns ? 0 : next + 1;
    }
#pragma unroll
    for (int k = 0; k < kBefore; ++k) rows[k] = rows[k + 1];
  }
  if (!circle && s.tokens > 0) Shift<T, kTaps>(state, a, x, count, rows);
}

// A thread has a few channels of sizes.chunk sequences, one after the other.
template <class T, int kTaps>
ACCEL_DEVICE void Update(const UpdateArgs& a) {
  constexpr int kN = kUpdateChannels;
  const Sizes& s = a.sizes;
  const uint32_t job = static_cast<uint32_t>(BlockId()) * kThreads + ThreadId();
  const uint32_t part = job / s.groups;
  const int64_t first = int64_t{part} * s.chunk;
  if (first >= s.batch) return;
  const int channel = static_cast<int>(job - part * s.groups) * kN;
  const int count = Min(kN, s.channels - channel);
  const auto taps = LoadTaps<Accumulator<T>, kTaps, kN>(a.weights, channel, count);
  const int last = static_cast<int>(Min<int64_t>(first + s.chunk, s.batch));
  const bool one = ByOneToken<T, kTaps>(a) && count == kN;
  for (int sequence = static_cast<int>(first); sequence < last; ++sequence) {
    if (one) {
      OneToken<T, kTaps>(a, taps, sequence, channel);
    } else {
      UpdateLine<T, kTaps>(a, taps, sequence, channel, count);
    }
  }
}

}  // namespace accel::conv1d
