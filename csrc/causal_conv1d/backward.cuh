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

// What the ids say of the steps of a walk down, looked at a few steps at a time: a bit each, from
// `known` on. Steps that do not lie inside are taken for fragments.
template <int kBefore>
struct FragmentsDown {
  int known;
  uint32_t bits;

  template <class T>
  ACCEL_DEVICE bool At(const Line<T>& line, const int32_t* seq_idx, int step) {
    constexpr int kMany = kInFlight;
    if (step < known) {
      if (!line.StepInside(step)) {
        known = step, bits = ~0u;
      } else if (step + 1 >= kMany && line.StepInside(step + 1 - kMany)) {
        known = step + 1 - kMany;
        bits = line.template Fragments<kBefore, kMany>(seq_idx, known);
      } else {
        known = step, bits = line.template Fragments<kBefore, 1>(seq_idx, known);
      }
    }
    return (bits >> (step - known) & 1) != 0;
  }
};

template <class T, int kTaps, bool kSeq>
ACCEL_DEVICE void BackwardFirst(const BackwardArgs& a) {
  using A = Accumulator<T>;
  constexpr int kVector = Line<T>::kVector, kBefore = kTaps - 1;
  constexpr int kBack = (kBefore + kVector - 1) / kVector;  // lanes
  const Sizes& s = a.sizes;
  const uint32_t job = GroupJob(), line_job = job / s.chunks;
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
  [[maybe_unused]] FragmentsDown<kBefore> fragments{top + 1, ~0u};
  // x of a step, which the step above needs, is loaded two steps before it is used, and dout one.
  Row<T, kVector> now = ZeroRow<T, kVector>(), below = now, now_dout = now;
  const auto walk = [&](const auto& counts, bool silu) {
    for (int step = top + 2; step >= first; --step) {
      const auto next = load(step - 2, x, line, true, 1);
      const auto next_dout = load(step - 1, dout, line_dout, whole_dout, 0);
      const auto advance = [&] { now = below, below = next, now_dout = next_dout; };
      if (step > top) {
        advance();
        continue;
      }
      A all[kBefore + kVector], spread[kBefore + kVector] = {};
      WithValuesBefore<T, kBefore>(now, below, all);
      const auto add = [&](int i, const auto& counts, bool there) {
        const auto under = [&](int k) { return all[i + k]; };
        const A sum = Convolved(taps, 0, counts, under);
        A ds = SumGradient<T>(Get(now_dout, i), sum, silu);
        ds = there ? ds : A(0);
        sum_bias += ds;
#pragma unroll
        for (int k = 0; k < kTaps; ++k) {
          spread[i + k] = AddTap(spread[i + k], taps.tap[k][0], ds, there && counts(k));
          sum_tap[k] = AddTap(sum_tap[k], ds, all[i + k], there && counts(k));
        }
      };
      if (kSeq && fragments.At(line, seq_idx, step)) {
        int32_t ids[kBefore + kVector];
        line.template Ids<kBefore>(seq_idx, int64_t{step} * kGroup + lane, ids);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          add(i, SameTaps<kTaps>{taps.used, ids + i}, ids[kBefore + i] >= 0);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kVector; ++i) add(i, counts, true);
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
  };
  if (a.weights.silu && EveryTap<kTaps>::Holds(taps.used)) {
    walk(EveryTap<kTaps>(), true);
  } else {
    walk(AllTaps<kTaps>{taps.used}, a.weights.silu);
  }
  StoreParts<A, kTaps>(a, static_cast<int64_t>(sequence) * s.chunks + chunk, channel, sum_tap,
                       sum_bias, GradientScale<T>(a.weights.silu));
}

}  // namespace accel::conv1d
