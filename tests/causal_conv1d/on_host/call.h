// File: call.h
//
// One call of a kernel on the host: the arguments as ops.cc makes them, and what they must give.
#pragma once

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/causal_conv1d/plan.h"
#include "tests/causal_conv1d/on_host/kernels.h"
#include "tests/causal_conv1d/on_host/reference.h"

namespace conv1d_test {

using accel::BFloat16;
using accel::Half;
using accel::conv1d::Device;
using accel::conv1d::Type;
using accel::conv1d::Weights;

template <class T>
struct TypeOf;
template <>
struct TypeOf<float> {
  static constexpr Type kType = Type::kFloat32;
  static constexpr const char* kName = "fp32";
  static constexpr double kRounding = 4e-6;
};
template <>
struct TypeOf<Half> {
  static constexpr Type kType = Type::kFloat16;
  static constexpr const char* kName = "fp16";
  static constexpr double kRounding = 0x1.01p-11;
};
template <>
struct TypeOf<BFloat16> {
  static constexpr Type kType = Type::kBFloat16;
  static constexpr const char* kName = "bf16";
  static constexpr double kRounding = 0x1.01p-8;
};
template <>
struct TypeOf<double> {
  static constexpr Type kType = Type::kFloat64;
  static constexpr const char* kName = "fp64";
  static constexpr double kRounding = 1e-12;
};

struct Case {
  Layout layout;
  int width, batch, channels, tokens;
  bool bias, silu, seq, initial, last, loose;
  int chunk;  // forced; 0: as plan.h says
  accel::HostMachine machine;
  uint64_t seed;
};

inline void Require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// The largest error beside what rounding to T and sums of `terms` values in fp32 may leave.
template <class T>
void RequireClose(const char* name, const Tensor& got, const Tensor& wanted, int terms) {
  const double sums = sizeof(T) == 8 ? 1e-12 : 1e-6 * terms;
  for (size_t i = 0; i < wanted.value.size(); ++i) {
    const double error = std::fabs(got.value[i] - wanted.value[i]);
    const double allowed = TypeOf<T>::kRounding * std::fabs(wanted.value[i]) + sums;
    const bool tiny = TypeOf<T>::kType == Type::kFloat16 && error < 0x1p-24;
    if (!(error <= allowed) && !tiny) {
      char text[200];
      std::snprintf(text, sizeof(text), "%s[%zu] is %.9g, not %.9g", name, i, got.value[i],
                    wanted.value[i]);
      throw std::runtime_error(text);
    }
  }
}

template <class Args>
void Launch(const std::string& name, int64_t blocks, const Args& args, const Case& c) {
  Start(name, blocks, &args, sizeof(Args), c.machine);
}

// The inputs of a case, of types T and W, as values and in memory.
template <class T, class W>
struct Problem {
  Case c;
  Numbers numbers;
  Inputs in;
  Buffer<T> x, initial;
  Buffer<W> weight, bias;
  std::vector<int32_t> ids;

  explicit Problem(const Case& of)
      : c(of),
        numbers(of.seed),
        in(MakeInputs(&numbers, of)),
        x(in.x, of.layout, of.loose),
        initial(of.initial ? in.initial : Tensor(), Layout::kLast, of.loose),
        weight(in.weight, Layout::kFirst, of.loose),
        bias(BiasTensor(in), Layout::kFirst, false),
        ids(in.seq_idx.begin(), in.seq_idx.end()) {}

  static Inputs MakeInputs(Numbers* numbers, const Case& c) {
    Inputs in;
    in.x = Random<T>(c.batch, c.channels, c.tokens, numbers);
    in.weight = Random<W>(1, c.channels, c.width, numbers);
    if (c.bias) in.bias = Random<W>(1, c.channels, 1, numbers).value;
    if (c.initial) in.initial = Random<T>(c.batch, c.channels, c.width - 1, numbers);
    for (int i = 0; c.seq && i < c.batch; ++i) {
      for (int t = 0, id = 0; t < c.tokens; ++t) {
        if (numbers->Below(5) == 0) ++id;
        in.seq_idx.push_back(id % 4 == 3 ? -1 : id);
      }
    }
    in.silu = c.silu;
    return in;
  }

  static Tensor BiasTensor(const Inputs& in) {
    Tensor t;
    if (!in.bias.empty()) t = Tensor(1, in.x.b, 1), t.value = in.bias;
    return t;
  }

  Weights weights() const {
    Weights w{};
    const Values v = weight.values(1);
    w.data = v.data;
    w.channel = v.channel;
    w.tap = v.token;
    w.type = TypeOf<W>::kType;
    w.width = c.width;
    w.silu = c.silu;
    const int taps = accel::conv1d::TapsFor(c.width);
    const uintptr_t bytes = accel::Min<uintptr_t>(taps * sizeof(W), 16);
    w.whole = c.width == taps && w.channel % taps == 0 &&
              reinterpret_cast<uintptr_t>(w.data) % bytes == 0;
    if (c.bias) w.bias = bias.values(1).data, w.bias_stride = 1;
    return w;
  }

  int vector() const { return 16 / static_cast<int>(sizeof(T)); }
  Device device() const { return {1, c.chunk}; }
  std::string Name(const char* kind) const {
    return std::string("conv1d_") + kind + (c.layout == Layout::kLast ? "_last" : "_first") +
           (c.seq ? "_seq_" : "_") + TypeOf<T>::kName + "_w" +
           std::to_string(accel::conv1d::TapsFor(c.width));
  }
};

inline int64_t Blocks(int64_t threads) {
  return accel::CeilDiv<int64_t>(threads, accel::conv1d::kThreads);
}

template <class T, class W>
void CheckForward(const Case& c) {
  namespace conv1d = accel::conv1d;
  const Problem<T, W> p(c);
  const int history = c.width - 1;
  const int each = conv1d::ChannelsFor(conv1d::TapsFor(c.width), sizeof(T));
  const bool last = c.layout == Layout::kLast;
  const auto out = Buffer<T>::Empty(c.batch, c.channels, c.tokens, c.layout, c.loose);
  const auto states = Buffer<T>::Empty(c.batch, c.channels, history, Layout::kLast, c.loose);
  conv1d::ForwardArgs k{};
  k.x = p.x.values(each);
  k.out = out.values(each);
  k.weights = p.weights();
  if (c.initial) k.initial = p.initial.values(each);
  if (c.last) k.last = states.values(each);
  if (c.seq) k.seq_idx = p.ids.data(), k.seq_idx_stride = c.tokens;
  k.sizes = last ? conv1d::WalkSizes(c.batch, c.channels, c.tokens, each, p.device(), 32)
                 : conv1d::LineSizes(c.batch, c.channels, c.tokens, sizeof(T), p.vector() - 1, 8,
                                     p.device());
  const int64_t chunks = static_cast<int64_t>(c.batch) * k.sizes.chunks;
  Launch(p.Name("forward"),
         Blocks(last ? conv1d::WalkThreads(k.sizes, chunks) : chunks * c.channels * accel::kGroup),
         k, c);
  RequireClose<T>("out", out.tensor(), Convolved(p.in), c.width);
  Require(out.GapsUntouched(), "the gaps of out were written");
  if (!c.last) return;
  Require(states.tensor().value == FinalStates(p.in).value, "final_states is not x's bits");
  Require(states.GapsUntouched(), "the gaps of final_states were written");
}

template <class T, class W>
void CheckBackward(const Case& c) {
  namespace conv1d = accel::conv1d;
  using A = conv1d::Accumulator<T>;
  Problem<T, W> p(c);
  const int history = c.width - 1, taps = conv1d::TapsFor(c.width);
  const int each = conv1d::ChannelsFor(taps, sizeof(T));
  const bool last = c.layout == Layout::kLast;
  const Tensor dout = Random<T>(c.batch, c.channels, c.tokens, &p.numbers);
  const Tensor dfinal = c.last ? Random<T>(c.batch, c.channels, history, &p.numbers) : Tensor();
  const Buffer<T> dout_in(dout, c.layout, c.loose), dfinal_in(dfinal, Layout::kLast, c.loose);
  const auto dx = Buffer<T>::Empty(c.batch, c.channels, c.tokens, c.layout, c.loose);
  const auto dinitial = Buffer<T>::Empty(c.batch, c.channels, history, Layout::kLast, c.loose);
  conv1d::BackwardArgs k{};
  k.x = p.x.values(each);
  k.dout = dout_in.values(each);
  k.dx = dx.values(each);
  k.weights = p.weights();
  if (c.initial) k.initial = p.initial.values(each);
  if (c.initial) k.dinitial = dinitial.values(each);
  if (c.last) k.dlast = dfinal_in.values(each);
  if (c.seq) k.seq_idx = p.ids.data(), k.seq_idx_stride = c.tokens;
  k.sequences = c.batch;
  int64_t parts = 0, blocks = 0;
  if (last) {
    constexpr int kPieces = conv1d::kThreads / accel::kGroup;
    k.sizes = conv1d::WalkSizes(c.batch, c.channels, c.tokens, each, p.device(), 256);
    k.sizes.chunks = accel::Max(accel::CeilDiv(k.sizes.chunks, kPieces), 1);
    parts = static_cast<int64_t>(c.batch) * k.sizes.chunks;
    blocks = parts * accel::CeilDiv(k.sizes.groups, accel::kGroup);
  } else {
    const int v = p.vector();
    const int lead = v - 1 + (c.initial ? accel::CeilDiv(taps - 1, v) * v : 0);
    k.sizes = conv1d::LineSizes(c.batch, c.channels, c.tokens, sizeof(T), lead, 32, p.device());
    parts = static_cast<int64_t>(c.batch) * k.sizes.chunks;
    blocks = Blocks(parts * c.channels * accel::kGroup);
  }
  std::vector<A> partial(parts * (taps + 1) * c.channels, std::nan(""));
  k.partial = partial.data();
  Launch(p.Name("backward"), blocks, k, c);

  const auto dweight = Buffer<W>::Empty(1, c.channels, c.width, Layout::kFirst, false);
  const auto dbias = Buffer<W>::Empty(1, c.channels, 1, Layout::kFirst, false);
  conv1d::SumArgs sum{};
  sum.partial = partial.data();
  sum.dweight = dweight.values(1).data;
  sum.dbias = c.bias ? dbias.values(1).data : nullptr;
  sum.parts = static_cast<int32_t>(parts);
  sum.channels = c.channels;
  sum.taps = taps;
  sum.width = c.width;
  sum.type = TypeOf<W>::kType;
  Launch(sizeof(T) == 8 ? "conv1d_backward_sum_fp64" : "conv1d_backward_sum",
         (c.width + c.bias) * static_cast<int64_t>(accel::CeilDiv(c.channels, accel::kGroup)), sum,
         c);

  const Gradients wanted = Backward(p.in, dout, dfinal);
  const int tokens = c.batch * c.tokens;
  RequireClose<T>("dx", dx.tensor(), wanted.dx, c.width);
  RequireClose<W>("dweight", dweight.tensor(), wanted.dweight, tokens);
  if (c.initial) RequireClose<T>("dinitial_states", dinitial.tensor(), wanted.dinitial, c.width);
  Require(dx.GapsUntouched() && dinitial.GapsUntouched(), "gaps were written");
  if (!c.bias) return;
  Tensor wanted_bias(1, c.channels, 1);
  wanted_bias.value = wanted.dbias;
  RequireClose<W>("dbias", dbias.tensor(), wanted_bias, tokens);
}

}  // namespace conv1d_test
