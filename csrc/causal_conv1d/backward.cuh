// File: backward.cuh
//
// The gradients of the forward, laid out as it is. An output's gradient is spread over the inputs
// under its taps, which are whole once the last of those outputs is done. The sums of dweight and
// dbias go to a workspace, a part for each chunk, that backward_sum adds up: always in one order.
#pragma once

#include <cstdint>
#include <type_traits>

#include "csrc/causal_conv1d/backward_last.cuh"
#include "csrc/causal_conv1d/backward_sum.cuh"
#include "csrc/causal_conv1d/forward.cuh"

namespace accel::conv1d {

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
                             const A (&sum_tap)[kTaps], A sum_bias, A scale) {
#pragma unroll
  for (int k = 0; k <= kTaps; ++k) {
    A sum = k < kTaps ? sum_tap[Min(k, kTaps - 1)] : sum_bias;
#pragma unroll
    for (int d = kGroup / 2; d > 0; d /= 2) sum += Shuffle(sum, Lane() ^ d);
    if (Lane() == 0) {
      static_cast<A*>(a.partial)[(part * (kTaps + 1) + k) * a.sizes.channels + channel] =
          sum * scale;
    }
  }
}

// spread[at] of the first kBefore belongs to the lane d below; the lowest lanes give what they had
// one step later, `right`.
template <int kBefore, int N, class A>
ACCEL_DEVICE void PassDown(A (&spread)[kBefore + N], A (&right)[kBefore]) {
  const int lane = Lane();
#pragma unroll
  for (int at = 0; at < kBefore; ++at) {
    const int d = (kBefore - at + N - 1) / N, i = at - (kBefore - d * N);
    const A got = Shuffle(lane < d ? right[at] : spread[at], (lane + d) & (kGroup - 1));
    right[at] = spread[at];
    spread[kBefore + i] += got;
  }
}

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void BackwardFirst(const BackwardArgs& a) {
  using A = Accumulator<T>;
  constexpr int kVector = Line<T>::kVector, kBefore = kTaps - 1;
  constexpr int kBack = (kBefore + kVector - 1) / kVector;  // lanes
  const Sizes& s = a.sizes;
  const int64_t job = BlockId() * (kThreads / kGroup) + Group();
  const int64_t line_job = job / s.chunks;
  if (line_job >= static_cast<int64_t>(s.batch) * s.channels) return;
  const int lane = Lane();
  const int sequence = static_cast<int>(line_job / s.channels);
  const int channel = static_cast<int>(line_job % s.channels);
  const int chunk = static_cast<int>(job % s.chunks), history = a.weights.width - 1;
  const T* x = At<T>(a.x, sequence, channel, 0);
  const T* dout = At<T>(a.dout, sequence, channel, 0);
  T* dx = At<T>(a.dx, sequence, channel, 0);
  const T* state = a.initial.data ? At<T>(a.initial, sequence, channel, history) : nullptr;
  const int off = Line<T>::Lead(x);
  // The states have gradients, too: then the line begins so many vectors before its first token.
  const int lead = off + (a.dinitial.data != nullptr ? kBack * kVector : 0);
  const Line<T> line{state, a.initial.token, s.tokens, history + 1, lead};
  const Line<T> line_dout{nullptr, 0, s.tokens, history + 1, lead};
  const bool whole_dout = Line<T>::Lead(dout) == off, whole_dx = Line<T>::Lead(dx) == off;
  const int32_t* seq_idx = kSeq ? a.seq_idx + sequence * a.seq_idx_stride : nullptr;
  auto taps = LoadTaps<A, kTaps, 1>(a.weights, channel, 1);
  ScaleForGradient<T>(&taps, a.weights.silu);
  const int steps = static_cast<int>(CeilDiv<int64_t>(int64_t{s.tokens} + lead, kVector * kGroup));
  const int first = chunk * s.chunk, last = Min(first + s.chunk, steps);
  // The steps whose vectors lie inside, and before the tokens that the states behind them add to.
  const int behind = a.dlast.data != nullptr ? kBefore : 0;
  const int inside_first = whole_dout && whole_dx ? CeilDiv(lead, kVector * kGroup) : steps;
  const int inside_last = Min(last, (s.tokens - behind + lead) / (kVector * kGroup));
  A sum_tap[kTaps] = {}, sum_bias = A(0), right[kBefore] = {};  // right: what spread to the left
  // The outputs behind the chunk that have taps in it come first, without a sum or a store.
  const int top = last < steps ? last : last - 1;
  const auto own = [&](auto* from) { return from + (lane * kVector - lead); };
  const auto load = [&](int step, const T* from, const Line<T>& of, bool whole, int reach) {
    const bool inside = step >= Max(first, inside_first) && step < inside_last;
    if (inside) {
      return LoadRow<T, kVector>(own(from) + int64_t{step} * (kGroup * kVector), 1, kVector, true);
    }
    const bool needed = step > top || step < first - reach ? false
                        : step < first                     ? lane >= kGroup - kBack
                                                           : step < last || lane < kBack;
    return needed ? of.Load(from, whole, int64_t{step} * kGroup + lane) : ZeroRow<T, kVector>();
  };
  const auto load_ids = [&](int step, int32_t(&ids)[kVector]) {
    const bool needed = step < first ? lane >= kGroup - kBack : step < last || lane < kBack;
    if (step <= top && needed) line.Ids(seq_idx, int64_t{step} * kGroup + lane, ids);
  };
  // x of a step is loaded two steps before it is used, and dout one.
  Row<T, kVector> now = ZeroRow<T, kVector>(), below = now, now_dout = now;
  [[maybe_unused]] int32_t now_ids[kVector] = {}, below_ids[kVector] = {};
  for (int step = top + 2; step >= first; --step) {
    const auto next = load(step - 2, x, line, true, 1);
    const auto next_dout = load(step - 1, dout, line_dout, whole_dout, 0);
    if constexpr (kSeq) load_ids(step - 1, below_ids);
    const auto advance = [&] {
      now = below, below = next, now_dout = next_dout;
#pragma unroll
      for (int i = 0; i < kVector; ++i) now_ids[i] = below_ids[i];
    };
    if (step > top) {
      advance();
      continue;
    }
    A all[kBefore + kVector], spread[kBefore + kVector] = {};
    WithValuesBefore<T, kBefore>(now, below, all);
    const auto add = [&](int i, uint32_t used, auto seq) {
      const auto under = [&](int k) { return all[i + k]; };
      const A sum = Convolved<seq.value>(taps, 0, used, under);
      const A ds = SumGradient<T>(Get(now_dout, i), sum, a.weights.silu);
      sum_bias += ds;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const bool counts = Counts<kTaps, seq.value>(used, k);
        spread[i + k] = AddTap(spread[i + k], taps.tap[k][0], ds, counts);
        sum_tap[k] = AddTap(sum_tap[k], ds, all[i + k], counts);
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
    PassDown<kBefore, kVector>(spread, right);
    if (step >= inside_first && step < inside_last) {
      A gradient[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) gradient[i] = spread[kBefore + i];
      StoreRow<T, kVector>(own(dx) + int64_t{step} * (kGroup * kVector), 1, kVector, true,
                           Rounded<T, kVector>(gradient));
    } else if (step < last) {
      StoreVector<T, kTaps>(a, line, sequence, channel, int64_t{step} * kGroup + lane, whole_dx,
                            spread);
    } else {  // another chunk sums these up
      sum_bias = A(0);
#pragma unroll
      for (int k = 0; k < kTaps; ++k) sum_tap[k] = A(0);
    }
    advance();
  }
  StoreParts<A, kTaps>(a, static_cast<int64_t>(sequence) * s.chunks + chunk, channel, sum_tap,
                       sum_bias, GradientScale<T>(a.weights.silu));
}

}  // namespace accel::conv1d
