// File: backward.cuh
//
// The gradients of the forward, laid out as it is. An output's gradient is spread over the inputs
// under its taps, which are whole once the last of those outputs is done. The sums of dweight and
// dbias go to a workspace, a part for each chunk, that backward_sum adds up: always in one order.
#pragma once

#include <cstdint>
#include <type_traits>

#include "csrc/causal_conv1d/backward_sum.cuh"
#include "csrc/causal_conv1d/forward.cuh"
#include "csrc/causal_conv1d/packed.cuh"

namespace accel::conv1d {

// ---- Channel-last: a block is 32 lanes over the channels times four pieces of a chunk

constexpr int kPieces = kThreads / kGroup;

// The sums of a thread.
template <class A, int kTaps>
struct Sums {
  A tap[kTaps][kChannels], bias[kChannels];
};

// One sequence as its thread sees it.
template <class T>
struct Span {
  const T *x, *dout;  // of the first token, at the thread's first channel
  T* dx;
  int sequence, tokens;
};

// The gradient of the input at `token`, or of a state, from its sum over the outputs.
template <class T>
ACCEL_DEVICE void StoreGradient(const BackwardArgs& a, const Span<T>& span, int channel, int count,
                                int token, Accumulator<T> (&sum)[kChannels]) {
  const int history = a.weights.width - 1;
  const int column = token - (span.tokens - history);  // of the states that were left behind
  if (a.dlast.data != nullptr && column >= 0) {
    const auto more = LoadChannels<T, kChannels>(At<T>(a.dlast, span.sequence, channel, 0), a.dlast,
                                                 column, count);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) sum[i] += Get(more, i);
  }
  const auto row = Rounded<T, kChannels>(sum);
  if (token >= 0) {
    StoreChannels<T, kChannels>(span.dx, a.dx, token, count, row);
  } else if (a.dinitial.data != nullptr && token >= -history) {
    StoreChannels<T, kChannels>(At<T>(a.dinitial, span.sequence, channel, 0), a.dinitial,
                                token + history, count, row);
  }
}

// What a walk carries along: the rows before the next token, and the gradients so far of those
// tokens, which outputs to come add to.
template <class T, int kTaps, bool kSeq>
struct WindowBack {
  Window<T, kTaps, kSeq> x;
  Accumulator<T> dx[kTaps - 1][kChannels];
};

// kRows outputs from t on. Inside: all are in the chunk, and the gradients that become whole are
// those of tokens in it before the last ones.
template <class T, int kTaps, bool kSeq, int kRows, bool kInside>
ACCEL_DEVICE void StepRowsBack(const BackwardArgs& a, const Span<T>& span, int channel, int count,
                               const Taps<Accumulator<T>, kTaps, kChannels>& taps, int first,
                               int last, int t, bool whole, WindowBack<T, kTaps, kSeq>* window,
                               Sums<Accumulator<T>, kTaps>* sums) {
  using A = Accumulator<T>;
  constexpr int kBefore = kTaps - 1;
  const bool silu = a.weights.silu;
  // Outputs so far behind the chunk still have a tap in it.
  const bool there = kInside || t < Min(last + a.weights.width - 1, span.tokens);
  const bool own = kInside || t < last;  // else another thread sums it up
  Row<T, kChannels> rows[kBefore + kRows], douts[kRows];
  [[maybe_unused]] int32_t ids[kBefore + kRows];
  A dx[kBefore + kRows][kChannels];
  const T* x = span.x + t * a.x.token;
  const T* dout = span.dout + t * a.dout.token;
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    rows[kBefore + u] = douts[u] = ZeroRow<T, kChannels>();
    if (there) {
      rows[kBefore + u] = LoadRow<T, kChannels>(x, a.x.channel, count, whole);
      douts[u] = LoadRow<T, kChannels>(dout, a.dout.channel, count, whole);
    }
    x += a.x.token;
    dout += a.dout.token;
  }
#pragma unroll
  for (int k = 0; k < kBefore; ++k) rows[k] = window->x.rows[k];
  if constexpr (kSeq) {
#pragma unroll
    for (int k = 0; k < kBefore; ++k) ids[k] = window->x.ids[k];
    if (there) {
      LoadIds<kRows>(a.seq_idx + span.sequence * a.seq_idx_stride + t, ids + kBefore);
    } else {
      ids[kBefore] = -1;
    }
  }
#pragma unroll
  for (int k = 0; k < kBefore + kRows; ++k) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) dx[k][i] = k < kBefore ? window->dx[k][i] : A(0);
  }
  T* to = span.dx + (t - kBefore) * a.dx.token;
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    uint32_t used = taps.used;
    if constexpr (kSeq) used = SameSequence<kTaps>(ids + u, used);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      A ds = Get(douts[u], i);
      if (silu) {
        A sum = taps.bias[i];
#pragma unroll
        for (int k = 0; k < kTaps; ++k) {
          sum = AddTap(sum, taps.tap[k][i], Get(rows[u + k], i), Counts<kTaps, kSeq>(used, k));
        }
        ds *= Slope(sum, true);
      }
      if constexpr (kSeq) ds = ids[kBefore + u] < 0 ? A(0) : ds;
      if constexpr (!kInside) ds = there ? ds : A(0);
      if (own) sums->bias[i] += ds;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const bool counts = there && Counts<kTaps, kSeq>(used, k);
        dx[u + k][i] = AddTap(dx[u + k][i], taps.tap[k][i], ds, counts);
        sums->tap[k][i] = AddTap(sums->tap[k][i], ds, Get(rows[u + k], i), counts && own);
      }
    }
    if constexpr (kInside) {
      StoreRow<T, kChannels>(to, a.dx.channel, count, true, Rounded<T, kChannels>(dx[u]));
      to += a.dx.token;
    } else {
      const int done = t - kBefore;
      if (done >= (first == 0 ? -kBefore : first) && done < last) {
        StoreGradient(a, span, channel, count, done, dx[u]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kBefore; ++k) {
    window->x.rows[k] = rows[k + kRows];
    if constexpr (kSeq) window->x.ids[k] = ids[k + kRows];
#pragma unroll
    for (int i = 0; i < kChannels; ++i) window->dx[k][i] = dx[k + kRows][i];
  }
}

// The tokens [first, last) of a sequence; where first is 0, its states, too.
template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void WalkBack(const BackwardArgs& a, const Span<T>& span, int channel, int count,
                           const Taps<Accumulator<T>, kTaps, kChannels>& taps, int first, int last,
                           Sums<Accumulator<T>, kTaps>* sums) {
  using A = Accumulator<T>;
  constexpr int kBefore = kTaps - 1, kRows = 4;
  WindowBack<T, kTaps, kSeq> window;
#pragma unroll
  for (int k = 0; k < kBefore; ++k) {
    const int token = first - kBefore + k;
    window.x.rows[k] =
        RowAt<T>(span.x, a.x, a.initial, span.sequence, channel, token, a.weights.width, count);
    if constexpr (kSeq) {
      window.x.ids[k] = a.seq_idx[span.sequence * a.seq_idx_stride + Max(token, 0)];
    }
#pragma unroll
    for (int i = 0; i < kChannels; ++i) window.dx[k][i] = A(0);
  }
  const bool whole = a.x.whole && a.dout.whole && count >= kChannels;
  for (int t = first; t < last + kBefore;) {
    if (whole && a.dx.whole && t >= first + kBefore && t + kRows <= last) {
      StepRowsBack<T, kTaps, kSeq, kRows, true>(a, span, channel, count, taps, first, last, t, true,
                                                &window, sums);
      t += kRows;
    } else {
      StepRowsBack<T, kTaps, kSeq, 1, false>(a, span, channel, count, taps, first, last, t, whole,
                                             &window, sums);
      ++t;
    }
  }
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void BackwardLast(const BackwardArgs& a) {
  using A = Accumulator<T>;
  ACCEL_SHARED A added[kPieces][kTaps + 1][kGroup * kChannels];
  const Sizes& s = a.sizes;
  const int tiles = CeilDiv(s.groups, kGroup);
  const int tile = static_cast<int>(BlockId() % tiles);
  const int64_t part = BlockId() / tiles;
  const int piece = ThreadId() / kGroup, lane = Lane();
  const int channel = (tile * kGroup + lane) * kChannels;
  const int count = Min(kChannels, s.channels - channel);
  Sums<A, kTaps> sums = {};
  if (count > 0) {
    const int batch = static_cast<int>(part / s.chunks);
    const int first = (static_cast<int>(part % s.chunks) * kPieces + piece) * s.chunk;
    const int last = Min(first + s.chunk, s.tokens);
    const bool whole = last == s.tokens;  // the last piece of all
    const auto taps = LoadTaps<A, kTaps, kChannels>(a.weights, channel, count);
    const bool packed = a.starts != nullptr;
    int sequence = packed ? FirstSequence(a.starts, a.sequences, first) : batch;
    const int sequences = packed ? a.sequences : batch + 1;
    int end = packed && sequence < sequences ? Clamp(a.starts[sequence], 0, s.tokens) : 0;
    const int64_t base = packed ? 0 : batch;
    // Pieces behind the last token have nothing to do, and empty sequences go to the last one.
    const bool any = first < s.tokens || first == 0;
    for (; any && sequence < sequences; ++sequence) {
      const int start = end;
      if (packed && start >= last && !whole) break;
      end = packed ? Clamp(a.starts[sequence + 1], start, s.tokens) : s.tokens;
      const Span<T> span{At<T>(a.x, base, channel, start), At<T>(a.dout, base, channel, start),
                         At<T>(a.dx, base, channel, start), sequence, end - start};
      WalkBack<T, kTaps, kSeq>(a, span, channel, count, taps, Max(first - start, 0),
                               Min(last, end) - start, &sums);
    }
    if (packed) {
      T* dx = At<T>(a.dx, 0, channel, 0);
      for (int t = Max(first, Max(a.starts[a.sequences], 0)); t < last; ++t) {
        StoreChannels<T, kChannels>(dx, a.dx, t, count, ZeroRow<T, kChannels>());
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      added[piece][k][lane * kChannels + i] = sums.tap[k][i];
    }
    added[piece][kTaps][lane * kChannels + i] = sums.bias[i];
  }
  Barrier();
  const int at = tile * kGroup * kChannels + ThreadId();
  if (at >= s.channels) return;
#pragma unroll
  for (int k = 0; k <= kTaps; ++k) {
    A sum = 0;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) sum += added[p][k][ThreadId()];
    static_cast<A*>(a.partial)[(part * (kTaps + 1) + k) * s.channels + at] = sum;
  }
}

// ---- Channel-first: from the last token to the first

// The gradients of a vector's tokens, and of the states before the first one.
template <class T, int kTaps>
ACCEL_DEVICE void StoreVector(const BackwardArgs& a, const Line<T>& line, int sequence, int channel,
                              int64_t vector, bool whole,
                              const Accumulator<T> (&spread)[kTaps - 1 + Line<T>::kVector]) {
  constexpr int kVector = Line<T>::kVector;
  const int token = line.Token(vector), history = line.width - 1;
  Accumulator<T> gradient[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) gradient[i] = spread[kTaps - 1 + i];
  if (a.dlast.data != nullptr && token + kVector > line.tokens - history) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int column = token + i - (line.tokens - history);
      if (column >= 0 && column < history) {
        gradient[i] += Value<Accumulator<T>, T>(At<T>(a.dlast, sequence, channel, column), 0);
      }
    }
  }
  const auto row = Rounded<T, kVector>(gradient);
  line.Store(At<T>(a.dx, sequence, channel, 0), whole, vector, row);
  if (a.dinitial.data == nullptr || token >= 0) return;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const int column = token + i + history;
    if (token + i < 0 && column >= 0) {
      *At<T>(a.dinitial, sequence, channel, column) = Take(row, i);
    }
  }
}

// The sums of a group's lanes.
template <class A, int kTaps>
ACCEL_DEVICE void StoreParts(const BackwardArgs& a, int64_t part, int channel,
                             const A (&sum_tap)[kTaps], A sum_bias) {
#pragma unroll
  for (int k = 0; k <= kTaps; ++k) {
    A sum = k < kTaps ? sum_tap[Min(k, kTaps - 1)] : sum_bias;
#pragma unroll
    for (int d = kGroup / 2; d > 0; d /= 2) sum += Shuffle(sum, Lane() ^ d);
    if (Lane() == 0) {
      static_cast<A*>(a.partial)[(part * (kTaps + 1) + k) * a.sizes.channels + channel] = sum;
    }
  }
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void BackwardFirst(const BackwardArgs& a) {
  using A = Accumulator<T>;
  constexpr int kVector = Line<T>::kVector, kBefore = kTaps - 1;
  constexpr int kBack = (kBefore + kVector - 1) / kVector;  // lanes
  const Sizes& s = a.sizes;
  const int64_t job = (BlockId() * kThreads + ThreadId()) / kGroup;
  const int64_t line_job = job / s.chunks;
  if (line_job >= static_cast<int64_t>(s.batch) * s.channels) return;
  const int lane = Lane();
  const int sequence = static_cast<int>(line_job / s.channels);
  const int channel = static_cast<int>(line_job % s.channels);
  const int chunk = static_cast<int>(job % s.chunks), history = a.weights.width - 1;
  const T* x = At<T>(a.x, sequence, channel, 0);
  const T* dout = At<T>(a.dout, sequence, channel, 0);
  T* dx = At<T>(a.dx, sequence, channel, 0);
  const T* state = nullptr;
  if (a.initial.data != nullptr) state = At<T>(a.initial, sequence, channel, history);
  const int off = Line<T>::Lead(x);
  // The states have gradients, too: then the line begins so many vectors before its first token.
  const int lead = off + (a.dinitial.data != nullptr ? kBack * kVector : 0);
  const Line<T> line{state, a.initial.token, s.tokens, history + 1, lead};
  const Line<T> line_dout{nullptr, 0, s.tokens, history + 1, lead};
  const bool whole_dout = Line<T>::Lead(dout) == off, whole_dx = Line<T>::Lead(dx) == off;
  const int32_t* seq_idx = kSeq ? a.seq_idx + sequence * a.seq_idx_stride : nullptr;
  const auto taps = LoadTaps<A, kTaps, 1>(a.weights, channel, 1);
  const bool silu = a.weights.silu;

  const int64_t steps = CeilDiv(s.tokens + lead, kVector * kGroup);
  const int64_t first = static_cast<int64_t>(chunk) * s.chunk;
  const int64_t last = Min(first + s.chunk, steps);
  A sum_tap[kTaps] = {}, sum_bias = A(0), right[kBefore] = {};  // right: what spread to the left
  Row<T, kVector> now = ZeroRow<T, kVector>(), now_dout = now;
  int32_t now_ids[kVector] = {};
  // The outputs behind the chunk that have taps in it come first, without a sum or a store.
  const int64_t top = last < steps ? last : last - 1;
  if (top < last || lane < kBack) {
    now = line.Load(x, true, top * kGroup + lane);
    now_dout = line_dout.Load(dout, whole_dout, top * kGroup + lane);
    if constexpr (kSeq) line.Ids(seq_idx, top * kGroup + lane, now_ids);
  }
  for (int64_t step = top; step >= first; --step) {
    const bool own = step < last;
    Row<T, kVector> below = ZeroRow<T, kVector>(), below_dout = below;
    [[maybe_unused]] int32_t below_ids[kVector] = {};
    const int64_t under = (step - 1) * kGroup + lane;
    const bool inside = step > first && whole_dout && line.StepInside(step - 1);
    if (inside) {
      below = LoadRow<T, kVector>(x + line.Token(under), 1, kVector, true);
      below_dout = LoadRow<T, kVector>(dout + line.Token(under), 1, kVector, true);
      if constexpr (kSeq) LoadIds<kVector>(seq_idx + line.Token(under), below_ids);
    } else if (step > first || lane >= kGroup - kBack) {
      below = line.Load(x, true, under);
      if (step > first) below_dout = line_dout.Load(dout, whole_dout, under);
      if constexpr (kSeq) line.Ids(seq_idx, under, below_ids);
    }
    A all[kBefore + kVector], spread[kBefore + kVector] = {};
    WithValuesBefore<T, kBefore>(now, below, all);
    const auto add = [&](int i, uint32_t used, auto seq) {
      A ds = Get(now_dout, i);
      if (silu) {
        A sum = taps.bias[0];
#pragma unroll
        for (int k = 0; k < kTaps; ++k) {
          sum = AddTap(sum, taps.tap[k][0], all[i + k], Counts<kTaps, seq.value>(used, k));
        }
        ds *= Slope(sum, true);
      }
      // Outputs of no token, and those behind the chunk, add nothing to the sums.
      const A summed = own ? ds : A(0);
      sum_bias += summed;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const bool counts = Counts<kTaps, seq.value>(used, k);
        spread[i + k] = AddTap(spread[i + k], taps.tap[k][0], ds, counts);
        sum_tap[k] = AddTap(sum_tap[k], summed, all[i + k], counts);
      }
    };
    bool fragments = false;
    [[maybe_unused]] int32_t all_ids[kBefore + kVector];
    if constexpr (kSeq) {
      WithIdsBefore<kBefore>(now_ids, below_ids, all_ids);
      fragments = !OneSequence(all_ids);
    }
    if (!fragments) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) add(i, taps.used, std::false_type());
    }
    if constexpr (kSeq) {
      if (fragments) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          if (all_ids[kBefore + i] >= 0) {
            add(i, SameSequence<kTaps>(all_ids + i, taps.used), std::true_type());
          }
        }
      }
    }
    // spread[at] belongs to the lane d below; the lowest lanes give what they had one step later.
#pragma unroll
    for (int at = 0; at < kBefore; ++at) {
      const int d = (kBefore - at + kVector - 1) / kVector, i = at - (kBefore - d * kVector);
      const A got = Shuffle(lane < d ? right[at] : spread[at], (lane + d) & (kGroup - 1));
      right[at] = spread[at];
      spread[kBefore + i] += got;
    }
    if (own) {
      StoreVector<T, kTaps>(a, line, sequence, channel, step * kGroup + lane, whole_dx, spread);
    }
    now = below, now_dout = below_dout;
    if constexpr (kSeq) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) now_ids[i] = below_ids[i];
    }
  }
  StoreParts<A, kTaps>(a, static_cast<int64_t>(sequence) * s.chunks + chunk, channel, sum_tap,
                       sum_bias);
}

}  // namespace accel::conv1d
