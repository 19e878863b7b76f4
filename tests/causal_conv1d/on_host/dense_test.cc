// File: dense_test.cc
//
// forward and backward on the host, as machines with waves of 32 and of 64 lanes, in every pair of
// types, widths, layouts, sizes, states ... With an argument: in a thousand cases.
#include <cstdio>

#include "tests/causal_conv1d/on_host/call.h"
#include "tests/causal_conv1d/on_host/pairs.h"

namespace conv1d_test {

constexpr int kTokens[] = {1, 2, 7, 33, 151, 300};
constexpr int kChannelCounts[] = {1, 5, 8, 36};
constexpr accel::HostMachine kMachines[] = {{32}, {64}, {32, true}, {64, true}};

// The factors, in the order of Check's levels.
const std::vector<int> kFactors = {
    2,  // layout
    4,  // type of x
    3,  // type of the weights, unless x is of doubles
    7,  // width, from 2 on
    6,  // tokens
    4,  // channels
    2,  // bias
    2,  // SiLU
    2,  // seq_idx
    2,  // initial states
    2,  // final states
    2,  // loose
    3,  // forced chunk
    4,  // machine
};

template <class T, class W>
static void CheckBoth(const Case& c) {
  CheckForward<T, W>(c);
  CheckBackward<T, W>(c);
}

template <class T>
static void CheckWith(int weights, const Case& c) {
  if constexpr (sizeof(T) == 8) return CheckBoth<double, double>(c);
  if (weights == 0) CheckBoth<T, float>(c);
  if (weights == 1) CheckBoth<T, Half>(c);
  if (weights == 2) CheckBoth<T, BFloat16>(c);
}

static void Check(const Levels& l, uint64_t seed) {
  Case c{};
  c.layout = l[0] == 0 ? Layout::kFirst : Layout::kLast;
  c.width = l[3] + 2;
  c.batch = 2;
  c.tokens = kTokens[l[4]];
  c.channels = kChannelCounts[l[5]];
  c.bias = l[6], c.silu = l[7], c.seq = l[8], c.initial = l[9], c.loose = l[11];
  c.last = l[10] && !c.seq;  // the two exclude each other
  c.chunk = l[12] == 0 ? 0 : c.layout == Layout::kFirst ? l[12] : 8 * l[12];
  c.machine = kMachines[l[13]];
  c.seed = seed;
  if (l[1] == 0) CheckWith<float>(l[2], c);
  if (l[1] == 1) CheckWith<Half>(l[2], c);
  if (l[1] == 2) CheckWith<BFloat16>(l[2], c);
  if (l[1] == 3) CheckWith<double>(l[2], c);
}

}  // namespace conv1d_test

int main(int argc, char**) {
  return conv1d_test::CheckCases(conv1d_test::kFactors, argc > 1, conv1d_test::Check);
}
