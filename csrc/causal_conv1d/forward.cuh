// File: forward.cuh
//
// The forward. Channel-last: a thread owns a few channels and walks along the tokens of a
// chunk with the rows under its taps in registers; rows before its chunk are read again.
// Channel-first: a group of 32 lanes walks along a channel, 16 bytes a lane, and a lane has the
// values before its own from its neighbours.
#pragma once

#include <cstdint>
#include <type_traits>

#include "csrc/causal_conv1d/conv.cuh"

namespace accel::conv1d {

// ---- Channel-last

// The row under a token; before the first token that of the states.
template <class T, int N>
ACCEL_DEVICE Row<T, N> RowAt(const T* x, const Values& v, const Values& initial, int64_t sequence,
                             int channel, int token, int width, int count) {
  if (token >= 0) return LoadChannels<T, N>(x, v, token, count);
  const int column = token + width - 1;
  if (initial.data == nullptr || column < 0) return ZeroRow<T, N>();
  const T* state = At<T>(initial, sequence, channel, 0);
  return LoadChannels<T, N>(state, initial, column, count);
}

// One output row from the rows under its taps.
template <class T, int kTaps, bool kSeq, int N>
ACCEL_DEVICE Row<T, N> OutputRow(const Row<T, N>* rows, const Taps<Accumulator<T>, kTaps, N>& taps,
                                 uint32_t used, bool silu) {
  Accumulator<T> out[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const auto x = [&](int k) { return Get(rows[k], i); };
    out[i] = Activated<T>(Convolved<kSeq>(taps, i, used, x), silu);
  }
  return Rounded<T, N>(out);
}

// Rows whose loads are under way together.
template <class T, bool kSeq>
constexpr int kAhead = kInFlight > 1 && sizeof(T) == 2 && !kSeq ? 2 * kInFlight : kInFlight;

// A thread's channels of one sequence, from its first token on.
template <class T>
struct Column {
  const T* x;
  T* out;
  int64_t x_channel, x_token, out_channel, out_token;
  int count;
  bool whole;  // its rows are loaded and stored at once
  const int32_t* seq_idx;
};

// The rows before the next token, and their sequences.
template <class T, int kTaps, int N, bool kSeq>
struct Window {
  Row<T, N> rows[kTaps - 1];
  int32_t ids[kSeq ? kTaps - 1 : 1];
};

// kRows tokens from t on.
template <class T, int kTaps, int N, bool kSeq, int kRows>
ACCEL_DEVICE void StepRows(const Column<T>& c, const Taps<Accumulator<T>, kTaps, N>& taps,
                           bool silu, bool whole, int t, Window<T, kTaps, N, kSeq>* window) {
  constexpr int kBefore = kTaps - 1;
  Row<T, N> rows[kBefore + kRows];
  [[maybe_unused]] int32_t ids[kBefore + kRows];
  const T* x = c.x + t * c.x_token;
  T* out = c.out + t * c.out_token;
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    rows[kBefore + u] = LoadRow<T, N>(x, c.x_channel, c.count, whole);
    x += c.x_token;
  }
#pragma unroll
  for (int k = 0; k < kBefore; ++k) rows[k] = window->rows[k];
  if constexpr (kSeq) {
    LoadIds<kRows>(c.seq_idx + t, ids + kBefore);
#pragma unroll
    for (int k = 0; k < kBefore; ++k) ids[k] = window->ids[k];
  }
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    uint32_t used = taps.used;
    if constexpr (kSeq) used = SameSequence<kTaps>(ids + u, used);
    auto row = OutputRow<T, kTaps, kSeq, N>(rows + u, taps, used, silu);
    if constexpr (kSeq) {
      if (ids[kBefore + u] < 0) row = ZeroRow<T, N>();
    }
    StoreRow<T, N>(out, c.out_channel, c.count, whole, row);
    out += c.out_token;
  }
#pragma unroll
  for (int k = 0; k < kBefore; ++k) {
    window->rows[k] = rows[k + kRows];
    if constexpr (kSeq) window->ids[k] = ids[k + kRows];
  }
}

// The tokens [first, last) of a column, kRows at once while there are as many.
template <class T, int kTaps, int N, bool kSeq, int kRows>
ACCEL_DEVICE void Walk(const Column<T>& c, const Taps<Accumulator<T>, kTaps, N>& taps, bool silu,
                       int first, int last, Window<T, kTaps, N, kSeq>* window) {
  int t = first;
  if (kRows > 1 && c.whole) {
    for (; t + kRows <= last; t += kRows) {
      StepRows<T, kTaps, N, kSeq, kRows>(c, taps, silu, true, t, window);
    }
  }
  for (; t < last; ++t) StepRows<T, kTaps, N, kSeq, 1>(c, taps, silu, c.whole, t, window);
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void ForwardLast(const ForwardArgs& a) {
  constexpr int N = ChannelsFor(kTaps, sizeof(T));
  const Sizes& s = a.sizes;
  const int tiles = CeilDiv(s.groups, kGroup);
  const int64_t job = BlockId() * (kThreads / kGroup) + Group();
  const int64_t chunk_job = job / tiles;
  if (chunk_job >= static_cast<int64_t>(s.batch) * s.chunks) return;
  const int channel = (static_cast<int>(job % tiles) * kGroup + Lane()) * N;
  if (channel >= s.channels) return;
  const int sequence = static_cast<int>(chunk_job / s.chunks);
  const int chunk = static_cast<int>(chunk_job % s.chunks);
  const int count = Min(N, s.channels - channel), width = a.weights.width;
  const int first = chunk * s.chunk, last = Min(first + s.chunk, s.tokens);
  const T* x = At<T>(a.x, sequence, channel, 0);
  const auto row_at = [&](int token) {
    return RowAt<T, N>(x, a.x, a.initial, sequence, channel, token, width, count);
  };
  const Column<T> column{x,
                         At<T>(a.out, sequence, channel, 0),
                         a.x.channel,
                         a.x.token,
                         a.out.channel,
                         a.out.token,
                         count,
                         a.x.whole && a.out.whole && count >= N,
                         kSeq ? a.seq_idx + sequence * a.seq_idx_stride : nullptr};
  Window<T, kTaps, N, kSeq> window;
#pragma unroll
  for (int k = 0; k < kTaps - 1; ++k) {
    window.rows[k] = row_at(first - (kTaps - 1) + k);
    if constexpr (kSeq) window.ids[k] = column.seq_idx[Max(first - (kTaps - 1) + k, 0)];
  }
  const auto taps = LoadTaps<Accumulator<T>, kTaps, N>(a.weights, channel, count);
  Walk<T, kTaps, N, kSeq, kAhead<T, kSeq>>(column, taps, a.weights.silu, first, last, &window);
  if (a.last.data == nullptr || last != s.tokens) return;
  T* state = At<T>(a.last, sequence, channel, 0);
  for (int column = 0; column < width - 1; ++column) {
    StoreChannels<T, N>(state, a.last, column, count, row_at(s.tokens - (width - 1) + column));
  }
}

// ---- Channel-first

// A channel of one sequence, cut into vectors of 16 bytes that begin on a 16-byte boundary, the
// first one perhaps before the first token.
template <class T>
struct Line {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const T* state;  // the column of token 0; null: zeros
  int64_t column;  // columns are so many values apart
  int tokens, width, lead;

  ACCEL_DEVICE int Token(int64_t vector) const { return static_cast<int>(vector * kVector) - lead; }
  ACCEL_DEVICE bool Inside(int token) const { return token >= 0 && token + kVector <= tokens; }

  // How far before the first token the 16-byte boundary lies.
  static ACCEL_DEVICE int Lead(const T* from) {
    return static_cast<int>(reinterpret_cast<uintptr_t>(from) / sizeof(T) % kVector);
  }

  // The value at a token, of `from` or of the states.
  ACCEL_DEVICE T At(const T* from, int token) const {
    T zero{};
    if (token >= 0) return token < tokens ? from[token] : zero;
    return state != nullptr && token > -width ? state[token * column] : zero;
  }

  // Whether all vectors of a step of a group lie inside.
  ACCEL_DEVICE bool StepInside(int64_t step) const {
    const int64_t token = step * kGroup * kVector - lead;
    return token >= 0 && token + kGroup * kVector <= tokens;
  }

  ACCEL_DEVICE Row<T, kVector> Load(const T* from, bool whole, int64_t vector) const {
    const int token = Token(vector);
    if (whole && Inside(token)) return LoadRow<T, kVector>(from + token, 1, kVector, true);
    auto row = ZeroRow<T, kVector>();
#pragma unroll
    for (int i = 0; i < kVector; ++i) Put(&row, i, At(from, token + i));
    return row;
  }

  ACCEL_DEVICE void Store(T* to, bool whole, int64_t vector, const Row<T, kVector>& row) const {
    const int token = Token(vector);
    if (whole && Inside(token)) return StoreRow<T, kVector>(to + token, 1, kVector, true, row);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (token + i >= 0 && token + i < tokens) to[token + i] = Take(row, i);
    }
  }

  // The sequence of each token of a vector; before the first token that of token 0.
  ACCEL_DEVICE void Ids(const int32_t* seq_idx, int64_t vector, int32_t (&ids)[kVector]) const {
    const int token = Token(vector);
    if (Inside(token)) {
      LoadIds<kVector>(seq_idx + token, ids);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        ids[i] = token + i < tokens ? seq_idx[Max(token + i, 0)] : -1;
      }
    }
  }
};

// What lies before and in a lane's vector: N words of it and as many as kBefore values take of the
// lanes below, for which the highest lanes give what they had one step before (`earlier`).
template <class T, int kBefore, int N>
ACCEL_DEVICE void WithValuesBefore(const Row<T, N>& now, const Row<T, N>& earlier,
                                   Accumulator<T> (&all)[kBefore + N]) {
  constexpr int kBack = (kBefore + N - 1) / N;  // lanes
  const int lane = Lane();
#pragma unroll
  for (int d = kBack; d >= 1; --d) {
    const int here = Min(kBefore - (d - 1) * N, N);  // values of that lane
    Row<T, N> got = ZeroRow<T, N>();
#pragma unroll
    for (int i = 0; i < Row<T, N>::kWords; ++i) {
      if ((i + 1) * 4 <= (N - here) * static_cast<int>(sizeof(T))) continue;
      const uint32_t word = lane >= kGroup - d ? earlier.word[i] : now.word[i];
      got.word[i] = Shuffle(word, (lane - d) & (kGroup - 1));
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int at = kBefore - d * N + i;
      if (at >= 0) all[at] = Get(got, i);
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) all[kBefore + i] = Get(now, i);
}

// The same of integers.
template <int kBefore, int N>
ACCEL_DEVICE void WithIdsBefore(const int32_t (&now)[N], const int32_t (&earlier)[N],
                                int32_t (&all)[kBefore + N]) {
  const int lane = Lane();
#pragma unroll
  for (int at = 0; at < kBefore; ++at) {
    const int d = (kBefore - at + N - 1) / N, i = at - (kBefore - d * N);
    all[at] = Shuffle(lane >= kGroup - d ? earlier[i] : now[i], (lane - d) & (kGroup - 1));
  }
#pragma unroll
  for (int i = 0; i < N; ++i) all[kBefore + i] = now[i];
}

// Steps whose loads are under way together.
template <bool kSeq>
constexpr int kSteps = kSeq ? Max(kInFlight / 4, 1) : kInFlight;

// A lane's outputs of one vector, from the values before and in it.
template <class T, int kTaps, int N>
ACCEL_DEVICE Row<T, N> OutputVector(const Accumulator<T> (&all)[kTaps - 1 + N],
                                    const Taps<Accumulator<T>, kTaps, 1>& taps, bool silu) {
  Accumulator<T> result[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const auto x = [&](int k) { return all[i + k]; };
    result[i] = Activated<T>(Convolved<false>(taps, 0, taps.used, x), silu);
  }
  return Rounded<T, N>(result);
}

// The same where the tokens are not of one sequence.
template <class T, int kTaps, int N>
ACCEL_DEVICE Row<T, N> OutputFragments(const Accumulator<T> (&all)[kTaps - 1 + N],
                                       const int32_t (&ids)[kTaps - 1 + N],
                                       const Taps<Accumulator<T>, kTaps, 1>& taps, bool silu) {
  Accumulator<T> result[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const uint32_t used = SameSequence<kTaps>(ids + i, taps.used);
    const auto x = [&](int k) { return all[i + k]; };
    const Accumulator<T> out = Activated<T>(Convolved<true>(taps, 0, used, x), silu);
    result[i] = ids[kTaps - 1 + i] < 0 ? Accumulator<T>(0) : out;
  }
  return Rounded<T, N>(result);
}

// Whether all of them are one sequence, and no padding.
template <int N>
ACCEL_DEVICE bool OneSequence(const int32_t (&ids)[N]) {
  int32_t other = 0;
#pragma unroll
  for (int i = 1; i < N; ++i) other |= ids[i] ^ ids[0];
  return other == 0 && ids[0] >= 0;
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void ForwardFirst(const ForwardArgs& a) {
  using A = Accumulator<T>;
  constexpr int kVector = Line<T>::kVector, kBefore = kTaps - 1;
  const Sizes& s = a.sizes;
  const int64_t job = BlockId() * (kThreads / kGroup) + Group();
  const int64_t line_job = job / s.chunks;
  if (line_job >= static_cast<int64_t>(s.batch) * s.channels) return;
  const int lane = Lane();
  const int sequence = static_cast<int>(line_job / s.channels);
  const int channel = static_cast<int>(line_job % s.channels);
  const int chunk = static_cast<int>(job % s.chunks), width = a.weights.width;
  const T* x = At<T>(a.x, sequence, channel, 0);
  T* out = At<T>(a.out, sequence, channel, 0);
  const T* state = nullptr;
  if (a.initial.data != nullptr) state = At<T>(a.initial, sequence, channel, width - 1);
  const Line<T> line{state, a.initial.token, s.tokens, width, Line<T>::Lead(x)};
  const bool whole_out = Line<T>::Lead(out) == line.lead;
  const int32_t* seq_idx = kSeq ? a.seq_idx + sequence * a.seq_idx_stride : nullptr;
  const bool silu = a.weights.silu;

  const int64_t steps = CeilDiv(s.tokens + line.lead, kVector * kGroup);
  const int64_t first = static_cast<int64_t>(chunk) * s.chunk;
  const int64_t last = Min(first + s.chunk, steps);
  Row<T, kVector> earlier = ZeroRow<T, kVector>();
  [[maybe_unused]] int32_t earlier_ids[kVector] = {};
  if (lane >= kGroup - CeilDiv(kBefore, kVector)) {
    earlier = line.Load(x, true, first * kGroup - kGroup + lane);
    if constexpr (kSeq) line.Ids(seq_idx, first * kGroup - kGroup + lane, earlier_ids);
  }
  const auto taps = LoadTaps<A, kTaps, 1>(a.weights, channel, 1);
  const auto output = [&](const Row<T, kVector>& now, const int32_t(&ids)[kVector]) {
    A all[kBefore + kVector];
    WithValuesBefore<T, kBefore>(now, earlier, all);
    earlier = now;
    if constexpr (kSeq) {
      int32_t all_ids[kBefore + kVector];
      WithIdsBefore<kBefore>(ids, earlier_ids, all_ids);
#pragma unroll
      for (int i = 0; i < kVector; ++i) earlier_ids[i] = ids[i];
      if (!OneSequence(all_ids)) {
        return OutputFragments<T, kTaps, kVector>(all, all_ids, taps, silu);
      }
    }
    return OutputVector<T, kTaps, kVector>(all, taps, silu);
  };
  // So many steps at once, if all of them lie inside.
  const auto steps_inside = [&](int64_t step, auto many) {
    constexpr int kMany = many.value;
    if (kMany == 1 || !whole_out || step + kMany > last || !line.StepInside(step) ||
        !line.StepInside(step + kMany - 1)) {
      return false;  // one step needs no code of its own
    }
    const int token = line.Token(step * kGroup + lane);
    Row<T, kVector> rows[kMany];
    [[maybe_unused]] int32_t ids[kMany][kVector];
#pragma unroll
    for (int u = 0; u < kMany; ++u) {
      const int at = token + u * kGroup * kVector;
      rows[u] = LoadRow<T, kVector>(x + at, 1, kVector, true);
      if constexpr (kSeq) LoadIds<kVector>(seq_idx + at, ids[u]);
    }
#pragma unroll
    for (int u = 0; u < kMany; ++u) {
      StoreRow<T, kVector>(out + token + u * kGroup * kVector, 1, kVector, true,
                           output(rows[u], ids[u]));
    }
    return true;
  };
  using Many = std::integral_constant<int, kSteps<kSeq>>;
  using Two = std::integral_constant<int, 2>;
  for (int64_t step = first; step < last;) {
    if (steps_inside(step, Many())) {
      step += Many::value;
    } else if (Many::value > 2 && steps_inside(step, Two())) {
      step += 2;
    } else {
      const int64_t vector = step * kGroup + lane;
      [[maybe_unused]] int32_t ids[kVector];
      if constexpr (kSeq) line.Ids(seq_idx, vector, ids);
      line.Store(out, whole_out, vector, output(line.Load(x, true, vector), ids));
      ++step;
    }
  }
  if (a.last.data == nullptr || (first >= steps && chunk > 0) || last != steps) return;
  if (lane < width - 1) {
    *At<T>(a.last, sequence, channel, lane) = line.At(x, s.tokens - (width - 1) + lane);
  }
}

}  // namespace accel::conv1d
