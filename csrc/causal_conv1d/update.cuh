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
// written as one piece. rows[0 .. kTaps - 2] become its last columns.
template <class T, int kTaps, int kColumns>
struct FlatLine {
  static constexpr int kN = kUpdateChannels, kBefore = kTaps - 1;
  Row<T, kN> piece[kColumns];

  ACCEL_DEVICE void Load(const T* state, Row<T, kN> (&rows)[kTaps]) {
#pragma unroll
    for (int p = 0; p < kColumns; ++p) piece[p] = LoadRow<T, kN>(state + p * kN, 1, kN, true);
#pragma unroll
    for (int k = 0; k < kBefore; ++k) {
      rows[k] = ZeroRow<T, kN>();
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const int at = i * kColumns + kColumns - kBefore + k;
        Put(&rows[k], i, Take(piece[at / kN], at % kN));
      }
    }
  }

  ACCEL_DEVICE void StoreShifted(T* state, const Row<T, kN>& x) const {
#pragma unroll
    for (int p = 0; p < kColumns; ++p) {
      auto row = ZeroRow<T, kN>();
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const int at = p * kN + j, i = at / kColumns, column = at % kColumns;
        const int from = Min(at + 1, kColumns * kN - 1);
        Put(&row, j, column == kColumns - 1 ? Take(x, i) : Take(piece[from / kN], from % kN));
      }
      StoreRow<T, kN>(state + p * kN, 1, kN, true, row);
    }
  }
};

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
  const int line = a.lines != nullptr ? a.lines[sequence] : sequence;
  if (line < 0 || line >= a.line_count) {
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
  const bool flat = a.flat && count >= kN;
  FlatLine<T, kTaps, kBefore> tight;
  FlatLine<T, kTaps, kTaps> roomy;
  if (flat && a.columns == kBefore) {
    tight.Load(state, rows);
  } else if (flat && a.columns == kTaps) {
    roomy.Load(state, rows);
  } else {
#pragma unroll
    for (int k = 0; k < kBefore; ++k) {
      int column = next - kBefore + k;
      if (circle && column < 0) column += a.columns;
      rows[k] = kBefore - k < width ? LoadChannels<T, kN>(state, a.state, column, count)
                                    : ZeroRow<T, kN>();
    }
  }
  for (int t = 0; t < s.tokens; ++t) {
    if (t > 0) rows[kBefore] = LoadChannels<T, kN>(x, a.x, t, count);
    Accumulator<T> result[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const auto under = [&](int k) { return Get(rows[k], i); };
      result[i] = Activated<T>(Convolved<false>(taps, i, taps.used, under), a.weights.silu);
    }
    StoreChannels<T, kN>(out, a.out, t, count, Rounded<T, kN>(result));
    if (circle) {
      StoreChannels<T, kN>(state, a.state, next, count, rows[kBefore]);
      next = next + 1 == a.columns ? 0 : next + 1;
    }
#pragma unroll
    for (int k = 0; k < kBefore; ++k) rows[k] = rows[k + 1];
  }
  if (circle || s.tokens == 0) return;
  if (flat && a.columns == kBefore) {
    tight.StoreShifted(state, rows[kBefore]);
  } else if (flat && a.columns == kTaps) {
    roomy.StoreShifted(state, rows[kBefore]);
  } else {
    Shift<T, kTaps>(state, a, x, count, rows);
  }
}

// A thread has a few channels of sizes.chunk sequences, one after the other.
template <class T, int kTaps>
ACCEL_DEVICE void Update(const UpdateArgs& a) {
  constexpr int kN = kUpdateChannels;
  const Sizes& s = a.sizes;
  const int64_t job = BlockId() * kThreads + ThreadId();
  const int64_t first = job / s.groups * s.chunk;
  if (first >= s.batch) return;
  const int channel = static_cast<int>(job % s.groups) * kN;
  const int count = Min(kN, s.channels - channel);
  const auto taps = LoadTaps<Accumulator<T>, kTaps, kN>(a.weights, channel, count);
  const int last = static_cast<int>(Min<int64_t>(first + s.chunk, s.batch));
  for (int sequence = static_cast<int>(first); sequence < last; ++sequence) {
    UpdateLine<T, kTaps>(a, taps, sequence, channel, count);
  }
}

}  // namespace accel::conv1d
