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
template <class T, int kTaps, int N, class Counts>
ACCEL_DEVICE Row<T, N> OutputRow(const Row<T, N>* rows, const Taps<Accumulator<T>, kTaps, N>& taps,
                                 const Counts& counts, bool silu) {
  Accumulator<T> out[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const auto x = [&](int k) { return Get(rows[k], i); };
    out[i] = Activated<T>(Convolved(taps, i, counts, x), silu);
  }
  return Rounded<T, N>(out);
}

// A thread's channels of one sequence, from its first token on.
template <class T>
struct Column {
  const T* x;
  T* out;
  int64_t x_channel, x_token, out_channel, out_token;
  int count;
  bool whole;  // its rows are loaded and stored at once
};

// What becomes of the tokens of a walk, the next one first. Here all are outputs of all taps.
template <int kTaps>
struct AllTokens {
  uint32_t used;
  ACCEL_DEVICE bool None() const { return false; }
  ACCEL_DEVICE AllTaps<kTaps> TapsOf(int) const { return {used}; }
  ACCEL_DEVICE bool Stores(int) const { return true; }
  ACCEL_DEVICE bool There(int) const { return true; }  // otherwise zeros are stored
  ACCEL_DEVICE void Skip(int) {}
};

// Some are padding, or of another sequence than those before.
template <int kTaps>
struct FragmentTokens : TokenBits<kTaps> {
  ACCEL_DEVICE bool None() const { return false; }
  ACCEL_DEVICE bool Stores(int) const { return true; }
};

// The output of token i behind the rows `before`, which go one token on.
template <class T, int kTaps, int N, class Tokens>
ACCEL_DEVICE void StepRow(const Column<T>& c, const Taps<Accumulator<T>, kTaps, N>& taps, bool silu,
                          bool whole, const Tokens& tokens, int i, const Row<T, N>& now, T* out,
                          Row<T, N> (&before)[kTaps - 1]) {
  Row<T, N> rows[kTaps];
#pragma unroll
  for (int k = 0; k < kTaps - 1; ++k) rows[k] = before[k];
  rows[kTaps - 1] = now;
  auto row = OutputRow<T, kTaps, N>(rows, taps, tokens.TapsOf(i), silu);
  if (!tokens.There(i)) row = ZeroRow<T, N>();
  if (tokens.Stores(i)) StoreRow<T, N>(out, c.out_channel, c.count, whole, row);
#pragma unroll
  for (int k = 0; k < kTaps - 1; ++k) before[k] = rows[k + 1];
}

// Rows whose loads are under way together.
template <class T>
constexpr int kAhead = kInFlight > 1 && sizeof(T) == 2 ? 2 * kInFlight : kInFlight;

// The tokens [first, last) of a column behind the rows `before`, kRows at once while there are as
// many. In a ring a row's place is filled again as soon as the row is used, otherwise when all
// are. What the tokens are is asked for when the first rows are under way.
template <class T, int kTaps, int N, int kRows, bool kRing, class LookAt>
ACCEL_DEVICE void Walk(const Column<T>& c, const Taps<Accumulator<T>, kTaps, N>& taps, bool silu,
                       int first, int last, const LookAt& look_at, Row<T, N> (&before)[kTaps - 1]) {
  const T* x = c.x + first * c.x_token;
  T* out = c.out + first * c.out_token;
  const auto load = [&](bool whole) {
    const auto row = LoadRow<T, N>(x, c.x_channel, c.count, whole);
    x += c.x_token;
    return row;
  };
  const int to = kRows > 1 && c.whole ? last - (last - first) % kRows : first;
  Row<T, N> rows[kRows];
  const auto fill = [&] {
#pragma unroll
    for (int u = 0; u < kRows; ++u) rows[u] = load(true);
  };
  if (first < to) fill();
  auto tokens = look_at();
  if (tokens.None()) return;
  int t = first;
  for (; t < to; t += kRows) {
    const bool more = t + kRows < to;
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const Row<T, N> now = rows[u];
      if (kRing && more) rows[u] = load(true);
      StepRow<T, kTaps, N>(c, taps, silu, true, tokens, u, now, out, before);
      out += c.out_token;
    }
    tokens.Skip(kRows);
    if (!kRing && more) fill();
  }
  for (; t < last; ++t) {
    StepRow<T, kTaps, N>(c, taps, silu, c.whole, tokens, 0, load(c.whole), out, before);
    out += c.out_token;
    tokens.Skip(1);
  }
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void ForwardLast(const ForwardArgs& a) {
  constexpr int N = ChannelsFor(kTaps, sizeof(T));
  const Sizes& s = a.sizes;
  const uint32_t tiles = CeilDiv(s.groups, kGroup);
  const uint32_t job = GroupJob(), chunk_job = job / tiles;
  if (chunk_job >= static_cast<int64_t>(s.batch) * s.chunks) return;
  const int channel = (static_cast<int>(job % tiles) * kGroup + Lane()) * N;
  if (!kSeq && channel >= s.channels) return;  // a group looks at ids together
  const int sequence = static_cast<int>(chunk_job / s.chunks);
  const int chunk = static_cast<int>(chunk_job % s.chunks);
  const int count = Clamp(s.channels - channel, 0, N), width = a.weights.width;
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
                         a.x.whole && a.out.whole && count >= N};
  Row<T, N> before[kTaps - 1];
#pragma unroll
  for (int k = 0; k < kTaps - 1; ++k) before[k] = row_at(first - (kTaps - 1) + k);
  const auto taps =
      LoadTaps<Accumulator<T>, kTaps, N>(a.weights, Min(channel, s.channels - 1), count);
  const bool silu = a.weights.silu;
  const auto all = [&] { return AllTokens<kTaps>{taps.used}; };
  if constexpr (kSeq) {
    const int32_t* ids = a.seq_idx + sequence * a.seq_idx_stride;
    for (int t = first; t < last; t += kGroup) {
      const int to = Min(t + kGroup, last);
      const auto look = [&] { return FragmentTokens<kTaps>{{ids, t, s.tokens, taps.used}}; };
      if constexpr (sizeof(T) > 2) {  // few instructions for a byte: rows need not wait for ids
        Walk<T, kTaps, N, kAhead<T>, false>(column, taps, silu, t, to, look, before);
      } else if (const auto tokens = look(); tokens.OneSequence(to - t, taps.used)) {
        Walk<T, kTaps, N, kAhead<T>, true>(column, taps, silu, t, to, all, before);
      } else {
        Walk<T, kTaps, N, kInFlight, true>(
            column, taps, silu, t, to, [&] { return tokens; }, before);
      }
    }
  } else {
    Walk<T, kTaps, N, kAhead<T>, false>(column, taps, silu, first, last, all, before);
  }
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

  // The sequences of a vector's tokens and of so many before them; before the first token that of
  // token 0.
  template <int kBefore>
  ACCEL_DEVICE void Ids(const int32_t* seq_idx, int64_t vector,
                        int32_t (&ids)[kBefore + kVector]) const {
    constexpr int kLoaded = (kBefore + 3) / 4 * 4;
    const int token = Token(vector);
    if (token >= kLoaded && Inside(token)) {
      int32_t all[kLoaded + kVector];
      LoadIds<kLoaded + kVector>(seq_idx + (token - kLoaded), all);
#pragma unroll
      for (int i = 0; i < kBefore + kVector; ++i) ids[i] = all[kLoaded - kBefore + i];
    } else {
#pragma unroll
      for (int i = 0; i < kBefore + kVector; ++i) {
        const int at = token - kBefore + i;
        ids[i] = at < tokens ? seq_idx[Max(at, 0)] : -1;
      }
    }
  }

  // A bit for each of kMany steps that lie inside: whether its tokens and so many before them are
  // of several sequences, or padding. Neighbouring lanes look at neighbouring ids, in the order of
  // their loads, without a branch between them: the loads of all steps are under way together.
  template <int kBefore, int kMany>
  ACCEL_DEVICE uint32_t Fragments(const int32_t* seq_idx, int64_t step) const {
    constexpr int kStep = kGroup * kVector;
    const int lane = Lane(), token = static_cast<int>(step * kStep) - lead;
    const int32_t* own = seq_idx + (token + lane);
    int32_t id[kMany], other[kMany];
#pragma unroll
    for (int u = 0; u < kMany; ++u) {
      id[u] = own[u * kStep];
      const int before = token + u * kStep - kBefore + Min(lane, kBefore - 1);
      other[u] = id[u] ^ seq_idx[u == 0 ? Max(before, 0) : before];
#pragma unroll
      for (int i = 1; i < kVector; ++i) other[u] |= id[u] ^ own[u * kStep + i * kGroup];
    }
    uint32_t bits = 0;
#pragma unroll
    for (int u = 0; u < kMany; ++u) {
      other[u] |= id[u] ^ Shuffle(id[u], 0);
      bits |= static_cast<uint32_t>((other[u] != 0) | (id[u] < 0)) << u;
    }
    return OrOfGroup(bits);
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

// A lane's outputs of one vector, from the values before and in it.
template <class T, int kTaps, int N>
ACCEL_DEVICE Row<T, N> OutputVector(const Accumulator<T> (&all)[kTaps - 1 + N],
                                    const Taps<Accumulator<T>, kTaps, 1>& taps, bool silu) {
  Accumulator<T> result[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const auto x = [&](int k) { return all[i + k]; };
    result[i] = Activated<T>(Convolved(taps, 0, AllTaps<kTaps>{taps.used}, x), silu);
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
    const auto x = [&](int k) { return all[i + k]; };
    const SameTaps<kTaps> counts{taps.used, ids + i};
    const Accumulator<T> out = Activated<T>(Convolved(taps, 0, counts, x), silu);
    result[i] = ids[kTaps - 1 + i] < 0 ? Accumulator<T>(0) : out;
  }
  return Rounded<T, N>(result);
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void ForwardFirst(const ForwardArgs& a) {
  using A = Accumulator<T>;
  constexpr int kVector = Line<T>::kVector, kBefore = kTaps - 1;
  const Sizes& s = a.sizes;
  const uint32_t job = GroupJob(), line_job = job / s.chunks;
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
  if (lane >= kGroup - CeilDiv(kBefore, kVector)) {
    earlier = line.Load(x, true, first * kGroup - kGroup + lane);
  }
  const auto taps = LoadTaps<A, kTaps, 1>(a.weights, channel, 1);
  const auto output = [&](const Row<T, kVector>& now, int64_t vector, bool fragments) {
    A all[kBefore + kVector];
    WithValuesBefore<T, kBefore>(now, earlier, all);
    earlier = now;
    if constexpr (kSeq) {
      if (fragments) {
        int32_t ids[kBefore + kVector];
        line.template Ids<kBefore>(seq_idx, vector, ids);
        return OutputFragments<T, kTaps, kVector>(all, ids, taps, silu);
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
    const int64_t vector = step * kGroup + lane;
    const int token = line.Token(vector);
    Row<T, kVector> rows[kMany];
#pragma unroll
    for (int u = 0; u < kMany; ++u) {
      rows[u] = LoadRow<T, kVector>(x + token + u * kGroup * kVector, 1, kVector, true);
    }
    uint32_t fragments = 0;
    if constexpr (kSeq) fragments = line.template Fragments<kBefore, kMany>(seq_idx, step);
#pragma unroll
    for (int u = 0; u < kMany; ++u) {
      StoreRow<T, kVector>(out + token + u * kGroup * kVector, 1, kVector, true,
                           output(rows[u], vector + u * kGroup, fragments >> u & 1));
    }
    return true;
  };
  using Many = std::integral_constant<int, kInFlight>;
  using Two = std::integral_constant<int, 2>;
  for (int64_t step = first; step < last;) {
    if (steps_inside(step, Many())) {
      step += Many::value;
    } else if (Many::value > 2 && steps_inside(step, Two())) {
      step += 2;
    } else {
      const int64_t vector = step * kGroup + lane;
      bool fragments = true;
      if constexpr (kSeq) {
        if (line.StepInside(step)) {
          fragments = line.template Fragments<kBefore, 1>(seq_idx, step) != 0;
        }
      }
      line.Store(out, whole_out, vector, output(line.Load(x, true, vector), vector, fragments));
      ++step;
    }
  }
  if (a.last.data == nullptr || (first >= steps && chunk > 0) || last != steps) return;
  if (lane < width - 1) {
    *At<T>(a.last, sequence, channel, lane) = line.At(x, s.tokens - (width - 1) + lane);
  }
}

}  // namespace accel::conv1d
