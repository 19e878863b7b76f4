// File: conv.cuh
//
// What the kernels share: rows of values, weights, the sum over the taps, SiLU. Every kernel makes
// an output by the same operations in the same order, so that pieces of a sequence give the same
// bits as the whole.
#pragma once

#include <cstdint>
#include <type_traits>

#include "csrc/causal_conv1d/conv.h"
#include "csrc/common/kernel_portable.h"

namespace accel::conv1d {

template <class T>
struct AccumulatorOf {
  using Type = float;
};
template <>
struct AccumulatorOf<double> {
  using Type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::Type;

ACCEL_DEVICE int Clamp(int value, int least, int most) { return Min(Max(value, least), most); }

// Which group of all blocks this thread is of.
ACCEL_DEVICE uint32_t GroupJob() {
  return static_cast<uint32_t>(BlockId()) * (kThreads / kGroup) + static_cast<uint32_t>(Group());
}

// ---- Rows: N neighbouring values, as bits

template <class T, int N>
struct Row {
  static constexpr int kWords = N * static_cast<int>(sizeof(T)) / 4;
  uint32_t word[kWords];
};

template <class T, int N>
ACCEL_DEVICE Row<T, N> ZeroRow() {
  Row<T, N> row;
#pragma unroll
  for (int i = 0; i < Row<T, N>::kWords; ++i) row.word[i] = 0;
  return row;
}

template <class T, int N>
ACCEL_DEVICE Accumulator<T> Get(const Row<T, N>& row, int i) {
  if constexpr (sizeof(T) == 2) {
    const uint32_t word = row.word[i / 2];
    return i % 2 == 0 ? Low(word, T{}) : High(word, T{});
  } else {
    T value;
    __builtin_memcpy(&value, &row.word[i * sizeof(T) / 4], sizeof(T));
    return value;
  }
}

// One value's bits; those that were there are zeros.
template <class T, int N>
ACCEL_DEVICE void Put(Row<T, N>* row, int i, T value) {
  if constexpr (sizeof(T) == 2) {
    row->word[i / 2] |= static_cast<uint32_t>(value.bits) << (i % 2 == 0 ? 0 : 16);
  } else {
    __builtin_memcpy(&row->word[i * sizeof(T) / 4], &value, sizeof(T));
  }
}

template <class T, int N>
ACCEL_DEVICE T Take(const Row<T, N>& row, int i) {
  T value;
  if constexpr (sizeof(T) == 2) {
    value.bits = static_cast<uint16_t>(row.word[i / 2] >> (i % 2 == 0 ? 0 : 16));
  } else {
    __builtin_memcpy(&value, &row.word[i * sizeof(T) / 4], sizeof(T));
  }
  return value;
}

template <class T, int N>
ACCEL_DEVICE Row<T, N> Rounded(const Accumulator<T> (&value)[N]) {
  Row<T, N> row;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) row.word[i] = Pack(value[2 * i], value[2 * i + 1], T{});
  } else {
    __builtin_memcpy(row.word, value, sizeof(row.word));
  }
  return row;
}

// The N values from `from` on, so many values apart; `whole` ones at once.
template <class T, int N>
ACCEL_DEVICE Row<T, N> LoadRow(const T* from, int64_t stride, int count, bool whole) {
  constexpr int kWords = Row<T, N>::kWords, kOnce = kWords < 4 ? kWords : 4;
  Row<T, N> row = ZeroRow<T, N>();
  if (whole) {
#pragma unroll
    for (int i = 0; i < kWords; i += kOnce) {
      const Words<kOnce> w = LoadWords<kOnce>(reinterpret_cast<const uint32_t*>(from) + i);
#pragma unroll
      for (int j = 0; j < kOnce; ++j) row.word[i + j] = w.word[j];
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i < count) Put(&row, i, from[i * stride]);
    }
  }
  return row;
}

template <class T, int N>
ACCEL_DEVICE void StoreRow(T* to, int64_t stride, int count, bool whole, const Row<T, N>& row) {
  constexpr int kWords = Row<T, N>::kWords, kOnce = kWords < 4 ? kWords : 4;
  if (whole) {
#pragma unroll
    for (int i = 0; i < kWords; i += kOnce) {
      Words<kOnce> w;
#pragma unroll
      for (int j = 0; j < kOnce; ++j) w.word[j] = row.word[i + j];
      StoreWords(reinterpret_cast<uint32_t*>(to) + i, w);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i < count) to[i * stride] = Take(row, i);
    }
  }
}

// ---- Rows of Values: neighbouring channels of one token, from the channel where `base` stands

template <class T>
ACCEL_DEVICE T* At(const Values& v, int64_t sequence, int64_t channel, int64_t token) {
  return static_cast<T*>(v.data) + sequence * v.sequence + channel * v.channel + token * v.token;
}

template <class T, int N>
ACCEL_DEVICE Row<T, N> LoadChannels(const T* base, const Values& v, int64_t token, int count) {
  return LoadRow<T, N>(base + token * v.token, v.channel, count, v.whole && count >= N);
}

template <class T, int N>
ACCEL_DEVICE void StoreChannels(T* base, const Values& v, int64_t token, int count,
                                const Row<T, N>& row) {
  StoreRow<T, N>(base + token * v.token, v.channel, count, v.whole && count >= N, row);
}

// Row `j` of several, without an address for it.
template <class T, int N, int kRows>
ACCEL_DEVICE Row<T, N> Pick(const Row<T, N> (&rows)[kRows], int j) {
  Row<T, N> row = ZeroRow<T, N>();
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int w = 0; w < Row<T, N>::kWords; ++w) {
      row.word[w] = i == j ? rows[i].word[w] : row.word[w];
    }
  }
  return row;
}

// ---- Weights

template <class A, class W>
ACCEL_DEVICE A Value(const void* data, int64_t at) {
  return static_cast<A>(ToFloat(static_cast<const W*>(data)[at]));
}

// tap[k][i] of N channels: the last `width` of kTaps; the others are not used.
template <class A, int kTaps, int N>
struct Taps {
  A tap[kTaps][N], bias[N];
  uint32_t used;  // bit k: tap k is
};

template <class W, class A, int kTaps, int N>
ACCEL_DEVICE void LoadTapsOf(const Weights& w, int channel, int count, Taps<A, kTaps, N>* to) {
  const auto at = [&](int i) { return static_cast<int64_t>(channel + (i < count ? i : 0)); };
  if (w.whole) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const auto row =
          LoadRow<W, kTaps>(static_cast<const W*>(w.data) + at(i) * w.channel, 1, kTaps, true);
#pragma unroll
      for (int k = 0; k < kTaps; ++k) to->tap[k][i] = static_cast<A>(Get(row, k));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const int from = k - (kTaps - w.width);
        to->tap[k][i] = from < 0 ? A(0) : Value<A, W>(w.data, at(i) * w.channel + from * w.tap);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) to->bias[i] = A(0);
  if (w.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < N; ++i) to->bias[i] = Value<A, W>(w.bias, at(i) * w.bias_stride);
  }
}

template <class A, int kTaps, int N>
ACCEL_DEVICE Taps<A, kTaps, N> LoadTaps(const Weights& w, int channel, int count) {
  Taps<A, kTaps, N> taps;
  taps.used = (1u << kTaps) - (1u << (kTaps - w.width));
  switch (w.type) {
    case Type::kFloat32:
      LoadTapsOf<float>(w, channel, count, &taps);
      break;
    case Type::kFloat16:
      LoadTapsOf<Half>(w, channel, count, &taps);
      break;
    case Type::kBFloat16:
      LoadTapsOf<BFloat16>(w, channel, count, &taps);
      break;
    case Type::kFloat64:
      if constexpr (sizeof(A) == 8) LoadTapsOf<double>(w, channel, count, &taps);
      break;
  }
  return taps;
}

// ---- Arithmetic

// Which taps of a width count. The last one always does, and those of the least width.
template <int kTaps>
struct AllTaps {
  uint32_t used;
  ACCEL_DEVICE bool operator()(int k) const {
    return k >= kTaps - LeastWidth(kTaps) || (used >> k & 1) != 0;
  }
};

// The same where none is left out: the compiler sees it.
template <int kTaps>
struct EveryTap {
  static ACCEL_DEVICE bool Holds(uint32_t used) { return used == (1u << kTaps) - 1; }
  ACCEL_DEVICE bool operator()(int) const { return true; }
};

// Those of them whose tokens are of the same sequence as the last one's: `ids` are those under
// them.
template <int kTaps>
struct SameTaps {
  uint32_t used;
  const int32_t* ids;
  ACCEL_DEVICE bool operator()(int k) const {
    return k == kTaps - 1 || (AllTaps<kTaps>{used}(k) && ids[k] == ids[kTaps - 1]);
  }
};

// One more tap of the sum. A tap that is not used adds nothing, whatever x is.
template <class A>
ACCEL_DEVICE A AddTap(A sum, A tap, A x, bool used) {
  return used ? Fma(tap, x, sum) : sum;
}

// The sum of channel i over x(k) under the taps k that count.
template <class A, int kTaps, int N, class X, class Counts>
ACCEL_DEVICE A Convolved(const Taps<A, kTaps, N>& taps, int i, const Counts& counts, const X& x) {
  A sum = taps.bias[i];
#pragma unroll
  for (int k = kTaps - 1; k >= 0; --k) sum = AddTap(sum, taps.tap[k][i], x(k), counts(k));
  return sum;
}

// Of a sum that is rounded to T.
template <class T, class A>
ACCEL_DEVICE A Activated(A sum, bool silu) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return silu ? NearSilu(sum) : sum;
  } else {
    return silu ? Divide(sum, A(1) + Exp(-sum)) : sum;
  }
}

// What taps, bias and so sums are multiplied by for SumGradient: by tanh of half the sum it takes
// one slow instruction, not two. Its result is over this: gradients times the taps are right, those
// of taps and bias are to be multiplied once more.
template <class T>
ACCEL_DEVICE float GradientScale(bool silu) {
  return std::is_same_v<T, BFloat16> && silu ? 0.5f : 1.0f;
}

template <class T, class A, int kTaps, int N>
ACCEL_DEVICE void ScaleForGradient(Taps<A, kTaps, N>* taps, bool silu) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const A scale = GradientScale<T>(silu);
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int k = 0; k < kTaps; ++k) taps->tap[k][i] *= scale;
      taps->bias[i] *= scale;
    }
  }
}

// The gradient of a sum from that of Activated of it.
template <class T, class A>
ACCEL_DEVICE A SumGradient(A gradient, A sum, bool silu) {
  if (silu) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      const A tanh = NearTanh(sum);
      gradient = Fma(gradient, tanh, gradient);
      gradient = Fma(gradient, Fma(-sum, tanh, sum), gradient);
    } else {
      const A sigmoid = Divide(A(1), A(1) + Exp(-sum));
      gradient *= Fma(sigmoid, Fma(-sum, sigmoid, sum), sigmoid);
    }
  }
  return gradient;
}

// What a group knows of 32 neighbouring tokens, a bit each: whether tap k counts there, for all but
// the last tap, and whether the token is no padding.
template <int kTaps>
struct TokenBits {
  uint32_t counts[kTaps - 1], there;

  TokenBits() = default;

  // From one look at the ids: a lane looks at its own token and those under its taps.
  ACCEL_DEVICE TokenBits(const int32_t* ids, int first, int tokens, uint32_t used) {
    const int token = first + Lane();
    const int32_t id = token < tokens ? ids[token] : -1;
    there = Ballot(id >= 0);
#pragma unroll
    for (int k = 0; k < kTaps - 1; ++k) {
      const int at = Min(Max(token - (kTaps - 1) + k, 0), tokens - 1);
      counts[k] = Ballot(AllTaps<kTaps>{used}(k) && ids[at] == id);
    }
  }

  // Whether the first tokens, so many, are of one sequence.
  ACCEL_DEVICE bool OneSequence(int many, uint32_t used) const {
    uint32_t all = there;
#pragma unroll
    for (int k = 0; k < kTaps - 1; ++k) all &= AllTaps<kTaps>{used}(k) ? counts[k] : ~0u;
    return (~all & ~0u >> (kGroup - many)) == 0;
  }

  ACCEL_DEVICE void Skip(int many) {
#pragma unroll
    for (int k = 0; k < kTaps - 1; ++k) counts[k] >>= many;
    there >>= many;
  }

  // Token i's taps.
  struct At {
    const TokenBits& bits;
    int i;
    ACCEL_DEVICE bool operator()(int k) const {
      return k == kTaps - 1 || (bits.counts[Min(k, kTaps - 2)] >> i & 1) != 0;
    }
  };
  ACCEL_DEVICE At TapsOf(int i) const { return {*this, i}; }
  ACCEL_DEVICE bool There(int i) const { return (there >> i & 1) != 0; }
};

// N neighbouring ids.
template <int N>
ACCEL_DEVICE void LoadIds(const int32_t* from, int32_t* ids) {
  if (N % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
#pragma unroll
    for (int i = 0; i + 3 < N; i += 4) {
      const Words<4> w = LoadWords<4>(from + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) ids[i + j] = static_cast<int32_t>(w.word[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) ids[i] = from[i];
  }
}

}  // namespace accel::conv1d
