// File: backward_last.cuh
//
// The gradients of the forward, channel-last: see backward.cuh.
#pragma once

#include <cstdint>

#include "csrc/causal_conv1d/forward.cuh"
#include "csrc/causal_conv1d/packed.cuh"

namespace accel::conv1d {

// A block is 32 lanes over the channels times four pieces of a chunk

constexpr int kPieces = kThreads / kGroup;

// The sums of a thread.
template <class A, int kTaps, int N>
struct Sums {
  A tap[kTaps][N], bias[N];
};

// One sequence as its thread sees it.
template <class T>
struct Span {
  const T *x, *dout;  // of the first token, at the thread's first channel
  T* dx;
  int sequence, tokens;
};

// The gradient of the input at `token`, or of a state, from its sum over the outputs.
template <class T, int N>
ACCEL_DEVICE void StoreGradient(const BackwardArgs& a, const Span<T>& span, int channel, int count,
                                int token, Accumulator<T> (&sum)[N]) {
  const int history = a.weights.width - 1;
  const int column = token - (span.tokens - history);  // of the states that were left behind
  if (a.dlast.data != nullptr && column >= 0) {
    const auto more =
        LoadChannels<T, N>(At<T>(a.dlast, span.sequence, channel, 0), a.dlast, column, count);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += Get(more, i);
  }
  const auto row = Rounded<T, N>(sum);
  if (token >= 0) {
    StoreChannels<T, N>(span.dx, a.dx, token, count, row);
  } else if (a.dinitial.data != nullptr && token >= -history) {
    StoreChannels<T, N>(At<T>(a.dinitial, span.sequence, channel, 0), a.dinitial, token + history,
                        count, row);
  }
}

// What a walk carries along: the inputs before the next token, and the gradients so far of those
// tokens, which outputs to come add to.
template <class A, int kTaps, int N>
struct WindowBack {
  A x[kTaps - 1][N], dx[kTaps - 1][N];
};

// The output at a token, whose input and gradient are `now` and `dout`: `counts` says which taps
// count, `there` whether there is an output, and `own` whether the sums are this thread's. window
// goes one token on; done becomes the gradient of the token that is behind it now.
template <class T, int kTaps, int N, class Counts>
ACCEL_DEVICE void StepRowBack(const Taps<Accumulator<T>, kTaps, N>& taps, bool silu, bool own,
                              bool there, const Counts& counts, const Row<T, N>& now,
                              const Row<T, N>& dout, WindowBack<Accumulator<T>, kTaps, N>* window,
                              Sums<Accumulator<T>, kTaps, N>* sums, Accumulator<T> (&done)[N]) {
  using A = Accumulator<T>;
  constexpr int kBefore = kTaps - 1;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    A x[kTaps], dx[kTaps];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      x[k] = k < kBefore ? window->x[Min(k, kBefore - 1)][i] : Get(now, i);
      dx[k] = k < kBefore ? window->dx[Min(k, kBefore - 1)][i] : A(0);
    }
    const auto under = [&](int k) { return x[k]; };
    A ds = SumGradient<T>(Get(dout, i), Convolved(taps, i, counts, under), silu);
    ds = there ? ds : A(0);
    if (own) sums->bias[i] += ds;
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      dx[k] = AddTap(dx[k], taps.tap[k][i], ds, there && counts(k));
      sums->tap[k][i] = AddTap(sums->tap[k][i], ds, x[k], there && own && counts(k));
    }
    done[i] = dx[0];
#pragma unroll
    for (int k = 0; k < kBefore; ++k) {
      window->x[k][i] = x[k + 1];
      window->dx[k][i] = dx[k + 1];
    }
  }
}

// Rows whose loads are under way together.
template <class T>
constexpr int kAheadBack = sizeof(T) == 2 ? Max(kInFlight / 2, 1) : kInFlight;

// Where all tokens are of one sequence.
template <class Counts>
struct PlainTokens {
  const Counts& counts;
  ACCEL_DEVICE bool There(int) const { return true; }
  ACCEL_DEVICE const Counts& TapsOf(int) const { return counts; }
};

// Most outputs of WalkBack, [from, to): all are in the chunk, and the gradients that become whole
// are those of tokens before the last ones; those before the chunk are another thread's. A row's
// place is filled again as soon as the row is used.
template <class T, int kTaps, int N, bool kSeq, class Counts>
ACCEL_DEVICE void WalkInside(const BackwardArgs& a, const Span<T>& span,
                             const Taps<Accumulator<T>, kTaps, N>& taps, const Counts& counts,
                             bool silu, int first, int from, int to,
                             WindowBack<Accumulator<T>, kTaps, N>* window,
                             Sums<Accumulator<T>, kTaps, N>* sums) {
  constexpr int kBefore = kTaps - 1, kRows = kAheadBack<T>, kLook = kGroup / kRows * kRows;
  constexpr bool kEvery = std::is_same_v<Counts, EveryTap<kTaps>>;
  const T* x = span.x + from * a.x.token;
  const T* dout = span.dout + from * a.dout.token;
  T* dx = span.dx + (from - kBefore) * a.dx.token;
  const int32_t* ids = kSeq ? a.seq_idx + span.sequence * a.seq_idx_stride : nullptr;
  Row<T, N> rows[kRows], douts[kRows];
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    rows[u] = LoadRow<T, N>(x, 1, N, true);
    douts[u] = LoadRow<T, N>(dout, 1, N, true);
    x += a.x.token;
    dout += a.dout.token;
  }
  const auto round = [&](int t, const auto& tokens) {
    const bool more = t + kRows < to;
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      Accumulator<T> done[N];
      StepRowBack<T, kTaps, N>(taps, silu, true, tokens.There(u), tokens.TapsOf(u), rows[u],
                               douts[u], window, sums, done);
      if (more) {
        rows[u] = LoadRow<T, N>(x, 1, N, true);
        douts[u] = LoadRow<T, N>(dout, 1, N, true);
        x += a.x.token;
        dout += a.dout.token;
      }
      if (t + u - kBefore >= first) {
        StoreRow<T, N>(dx, 1, N, true, Rounded<T, N>(done));
      }
      dx += a.dx.token;
    }
  };
  [[maybe_unused]] TokenBits<kTaps> bits = {};
  [[maybe_unused]] bool one = false;
  for (int t = from; t < to; t += kRows) {
    if constexpr (kSeq) {
      if ((t - from) % kLook == 0) {
        bits = {ids, t, span.tokens, taps.used};
        one = kEvery && bits.OneSequence(Min(kLook, to - t), taps.used);
      }
    }
    if (!kSeq || one) {
      round(t, PlainTokens<Counts>{counts});
    } else {
      round(t, bits);
    }
    if constexpr (kSeq) bits.Skip(kRows);
  }
}

// The tokens [first, last) of a sequence; where first is 0, its states, too.
template <class T, int kTaps, int N, bool kSeq>
ACCEL_DEVICE void WalkBack(const BackwardArgs& a, const Span<T>& span, int channel, int count,
                           const Taps<Accumulator<T>, kTaps, N>& taps, int first, int last,
                           Sums<Accumulator<T>, kTaps, N>* sums) {
  using A = Accumulator<T>;
  constexpr int kBefore = kTaps - 1;
  const int width = a.weights.width;
  WindowBack<A, kTaps, N> window;
#pragma unroll
  for (int k = 0; k < kBefore; ++k) {
    const int token = first - kBefore + k;
    const auto row =
        RowAt<T, N>(span.x, a.x, a.initial, span.sequence, channel, token, width, count);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      window.x[k][i] = Get(row, i);
      window.dx[k][i] = A(0);
    }
  }
  // Until `from` gradients of states become whole.
  const int from = first == 0 && a.dinitial.data != nullptr ? kBefore : first;
  bool whole = a.x.whole && a.dout.whole && a.dx.whole && count >= N;
  if constexpr (kSeq) whole = Ballot(!whole) == 0;  // a group looks at ids together
  const int to =
      kInFlight > 1 && whole && from < last ? last - (last - from) % kAheadBack<T> : from;
  for (int t = first; t < last + kBefore;) {
    if (t == from && from < to) {
      const bool silu = a.weights.silu;
      if (silu && EveryTap<kTaps>::Holds(taps.used)) {
        WalkInside<T, kTaps, N, kSeq>(a, span, taps, EveryTap<kTaps>(), true, first, from, to,
                                      &window, sums);
      } else {
        WalkInside<T, kTaps, N, kSeq>(a, span, taps, AllTaps<kTaps>{taps.used}, silu, first, from,
                                      to, &window, sums);
      }
      t = to;
      continue;
    }
    // Outputs so far behind the chunk still have a tap in it.
    bool there = t < Min(last + width - 1, span.tokens);
    Row<T, N> row = ZeroRow<T, N>(), dout = row;
    if (there) {
      row = LoadChannels<T, N>(span.x, a.x, t, count);
      dout = LoadChannels<T, N>(span.dout, a.dout, t, count);
    }
    A done[N];
    const auto step = [&](const auto& counts) {
      StepRowBack<T, kTaps, N>(taps, a.weights.silu, t < last, there, counts, row, dout, &window,
                               sums, done);
    };
    if constexpr (kSeq) {
      int32_t ids[kTaps];
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const int at = Clamp(t - kBefore + k, 0, span.tokens - 1);
        ids[k] = a.seq_idx[span.sequence * a.seq_idx_stride + at];
      }
      there = there && ids[kBefore] >= 0;
      step(SameTaps<kTaps>{taps.used, ids});
    } else {
      step(AllTaps<kTaps>{taps.used});
    }
    const int token = t - kBefore;
    if (token >= (first == 0 ? -kBefore : first) && token < last) {
      StoreGradient(a, span, channel, count, token, done);
    }
    ++t;
  }
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void BackwardLast(const BackwardArgs& a) {
  using A = Accumulator<T>;
  constexpr int N = ChannelsFor(kTaps, sizeof(T));
  ACCEL_SHARED A added[kPieces][kTaps + 1][kGroup * N];
  const Sizes& s = a.sizes;
  const int tiles = CeilDiv(s.groups, kGroup);
  const int tile = static_cast<int>(BlockId() % tiles);
  const int64_t part = BlockId() / tiles;
  const int piece = Group(), lane = Lane();
  const int channel = (tile * kGroup + lane) * N;
  const int count = Clamp(s.channels - channel, 0, N);
  Sums<A, kTaps, N> sums = {};
  const int batch = static_cast<int>(part / s.chunks);
  const int first = (static_cast<int>(part % s.chunks) * kPieces + piece) * s.chunk;
  const int last = Min(first + s.chunk, s.tokens);
  const bool whole = last == s.tokens;  // the last piece of all
  auto taps = LoadTaps<A, kTaps, N>(a.weights, Min(channel, s.channels - 1), count);
  ScaleForGradient<T>(&taps, a.weights.silu);
  const bool packed = a.starts != nullptr;
  const auto start_of = [&](int sequence) { return Shuffle(a.starts[sequence], 0); };
  int sequence = packed ? FirstSequence(a.starts, a.sequences, first) : batch;
  const int sequences = packed ? a.sequences : batch + 1;
  int end = packed && sequence < sequences ? Clamp(start_of(sequence), 0, s.tokens) : 0;
  const int64_t base = packed ? 0 : batch;
  // Pieces behind the last token have nothing to do, and empty sequences go to the last one.
  const bool any = first < s.tokens || first == 0;
  for (; any && sequence < sequences; ++sequence) {
    const int start = end;
    if (packed && start >= last && !whole) break;
    end = packed ? Clamp(start_of(sequence + 1), start, s.tokens) : s.tokens;
    const Span<T> span{At<T>(a.x, base, channel, start), At<T>(a.dout, base, channel, start),
                       At<T>(a.dx, base, channel, start), sequence, end - start};
    WalkBack<T, kTaps, N, kSeq>(a, span, channel, count, taps, Max(first - start, 0),
                                Min(last, end) - start, &sums);
  }
  if (packed) {
    T* dx = At<T>(a.dx, 0, channel, 0);
    for (int t = Max(first, Max(a.starts[a.sequences], 0)); t < last; ++t) {
      StoreChannels<T, N>(dx, a.dx, t, count, ZeroRow<T, N>());
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      added[piece][k][lane * N + i] = sums.tap[k][i];
    }
    added[piece][kTaps][lane * N + i] = sums.bias[i];
  }
  Barrier();
  const A scale = GradientScale<T>(a.weights.silu);
  for (int j = ThreadId(); j < kGroup * N; j += kThreads) {
    const int at = tile * kGroup * N + j;
    if (at >= s.channels) return;
#pragma unroll
    for (int k = 0; k <= kTaps; ++k) {
      A sum = 0;
#pragma unroll
      for (int p = 0; p < kPieces; ++p) sum += added[p][k][j];
      static_cast<A*>(a.partial)[(part * (kTaps + 1) + k) * s.channels + at] = sum * scale;
    }
  }
}

}  // namespace accel::conv1d
