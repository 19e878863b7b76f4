// File: lines_test.cc
//
// packed and update on the host: state lines, in every pair of types, widths, sizes, machines. With
// an argument: in a thousand cases.
#include <cstdint>
#include <vector>

#include "tests/causal_conv1d/on_host/call.h"
#include "tests/causal_conv1d/on_host/pairs.h"

namespace conv1d_test {

namespace conv1d = accel::conv1d;

constexpr int kLines = 9;
constexpr accel::HostMachine kMachines[] = {{32}, {64}, {64, true}};

// Row i of t as a batch of one, its tokens from `first` on.
static Tensor Slice(const Tensor& t, int i, int first, int tokens) {
  Tensor part(1, t.b, tokens);
  for (int j = 0; j < t.b; ++j) {
    for (int k = 0; k < tokens; ++k) part.at(0, j, k) = t.at(i, j, first + k);
  }
  return part;
}

static void Assign(Tensor* to, int i, int first, const Tensor& part) {
  for (int j = 0; j < to->b; ++j) {
    for (int k = 0; k < part.c; ++k) to->at(i, j, first + k) = part.at(0, j, k);
  }
}

static Inputs Of(const Inputs& in, const Tensor& x, const Tensor& initial) {
  Inputs one = in;
  one.x = x;
  one.initial = initial;
  return one;
}

// Sequences of 0 to 40 tokens with lines in another order, two of them padding, then two tokens of
// nobody.
template <class T>
static void CheckPacked(Case c, int columns_more) {
  const int lengths[] = {3, 0, 40, 1, 2, 17, 5};
  constexpr int kSequences = 7;
  std::vector<int32_t> starts = {0}, lines = {4, 0, 7, -1, 2, 8, -1};
  std::vector<uint8_t> has = {1, 1, 0, 1, 0, 1, 1};
  for (int length : lengths) starts.push_back(starts.back() + length);
  c.batch = 1, c.tokens = starts.back() + 2;
  c.seq = c.initial = false;
  Problem<T, float> p(c);
  const int history = c.width - 1;
  Tensor states = Random<T>(kLines, c.channels, history + columns_more, &p.numbers);
  const Buffer<T> state_lines(states, Layout::kLast, c.loose);
  const auto out = Buffer<T>::Empty(1, c.channels, c.tokens, Layout::kLast, c.loose);
  conv1d::PackedArgs k{};
  const int each = conv1d::ChannelsFor(conv1d::TapsFor(c.width), sizeof(T));
  k.x = p.x.values(each);
  k.out = out.values(each);
  k.weights = p.weights();
  k.before = k.after = state_lines.values(each);
  k.starts = starts.data();
  k.lines = lines.data();
  k.has_initial = has.data();
  k.sequences = kSequences, k.line_count = kLines, k.pad_line = -1;
  k.columns = history + columns_more;
  k.sizes = conv1d::WalkSizes(1, c.channels, c.tokens, each, p.device(), 32);
  Launch(std::string("conv1d_packed_") + TypeOf<T>::kName + "_w" +
             std::to_string(conv1d::TapsFor(c.width)),
         Blocks(conv1d::WalkThreads(k.sizes, k.sizes.chunks + kSequences)), k, c);

  Tensor wanted(1, c.channels, c.tokens);
  for (int i = 0; i < kSequences; ++i) {
    if (lines[i] < 0) continue;
    const Tensor none(1, c.channels, history);
    const Inputs one = Of(p.in, Slice(p.in.x, 0, starts[i], lengths[i]),
                          has[i] ? Slice(states, lines[i], 0, history) : none);
    Assign(&wanted, 0, starts[i], Convolved(one));
    Assign(&states, lines[i], 0, FinalStates(one));
  }
  RequireClose<T>("out", out.tensor(), wanted, c.width);
  Require(state_lines.tensor().value == states.value, "conv_states are not x's bits");
  Require(out.GapsUntouched() && state_lines.GapsUntouched(), "gaps were written");
}

template <class T>
static void CheckUpdate(Case c, int columns_more, bool circle, Layout of_states) {
  c.batch = 5, c.seq = c.initial = false;
  Problem<T, float> p(c);
  const int history = c.width - 1, columns = history + columns_more;
  const std::vector<int32_t> lines = {3, 0, -1, 8, 5}, lengths = {0, 7, 1, 100, 3};
  Tensor states = Random<T>(kLines, c.channels, columns, &p.numbers);
  const Buffer<T> state_lines(states, of_states, c.loose);
  const auto out = Buffer<T>::Empty(c.batch, c.channels, c.tokens, c.layout, c.loose);
  conv1d::UpdateArgs k{};
  k.x = p.x.values(conv1d::kUpdateChannels);
  k.out = out.values(conv1d::kUpdateChannels);
  k.state = state_lines.values(conv1d::kUpdateChannels);
  k.weights = p.weights();
  k.lengths = circle ? lengths.data() : nullptr;
  k.lines = lines.data();
  k.line_count = kLines, k.columns = columns;
  const int taps = conv1d::TapsFor(c.width);
  k.flat = c.tokens == 1 && !circle && columns <= taps && columns >= taps - 1 &&
           k.state.token == 1 && k.state.channel == columns &&
           k.state.sequence % conv1d::kUpdateChannels == 0 &&
           reinterpret_cast<uintptr_t>(k.state.data) % (conv1d::kUpdateChannels * sizeof(T)) == 0;
  k.sizes = {c.batch, c.channels, c.tokens, accel::CeilDiv(c.channels, conv1d::kUpdateChannels),
             2,       0};
  Launch(std::string("conv1d_update_") + TypeOf<T>::kName + "_w" +
             std::to_string(conv1d::TapsFor(c.width)),
         Blocks(static_cast<int64_t>(accel::CeilDiv(c.batch, 2)) * k.sizes.groups), k, c);

  Tensor wanted(c.batch, c.channels, c.tokens);
  for (int i = 0; i < c.batch; ++i) {
    if (lines[i] < 0) continue;
    const Tensor x = Slice(p.in.x, i, 0, c.tokens);
    Tensor before(1, c.channels, history);
    const int next = circle ? lengths[i] % columns : columns;
    for (int j = 0; j < c.channels; ++j) {
      for (int h = 0; h < history; ++h) {
        before.at(0, j, h) = states.at(lines[i], j, (next - history + h + columns) % columns);
      }
    }
    Assign(&wanted, i, 0, Convolved(Of(p.in, x, before)));
    for (int j = 0; j < c.channels; ++j) {
      for (int t = 0; t < c.tokens; ++t) {
        if (circle) {
          states.at(lines[i], j, (next + t) % columns) = x.at(0, j, t);
        } else {
          for (int h = 0; h + 1 < columns; ++h) {
            states.at(lines[i], j, h) = states.at(lines[i], j, h + 1);
          }
          states.at(lines[i], j, columns - 1) = x.at(0, j, t);
        }
      }
    }
  }
  RequireClose<T>("out", out.tensor(), wanted, c.width);
  Require(state_lines.tensor().value == states.value, "conv_state is not x's bits");
  Require(out.GapsUntouched() && state_lines.GapsUntouched(), "gaps were written");
}

const std::vector<int> kFactors = {4, 7, 3, 2, 2, 2, 3, 3, 3, 2, 2};

template <class T>
static void CheckBoth(const Levels& l, uint64_t seed) {
  Case c{};
  c.width = l[1] + 2;
  c.channels = 1 + 7 * l[2];
  c.bias = l[3], c.silu = l[4], c.loose = l[5];
  c.machine = kMachines[l[6]];
  c.seed = seed;
  c.layout = Layout::kLast;
  c.chunk = 8 * l[7];
  CheckPacked<T>(c, l[8]);
  c.layout = l[9] == 0 ? Layout::kFirst : Layout::kLast;
  c.tokens = 1 + 3 * l[7];
  // In a circle no token may overwrite what a later one of the call still reads.
  const bool circle = l[9] == 0 && l[8] * 4 >= c.tokens - 1;
  CheckUpdate<T>(c, l[8] * 4, circle, l[10] == 0 ? Layout::kFirst : Layout::kLast);
  // A token a line, whose columns are all read at once.
  c.tokens = 1, c.loose = false, c.channels = 4 * c.channels;
  CheckUpdate<T>(c, l[8] % 2, false, Layout::kFirst);
}

static void Check(const Levels& l, uint64_t seed) {
  if (l[0] == 0) CheckBoth<float>(l, seed);
  if (l[0] == 1) CheckBoth<Half>(l, seed);
  if (l[0] == 2) CheckBoth<BFloat16>(l, seed);
  if (l[0] == 3) CheckBoth<double>(l, seed);
}

}  // namespace conv1d_test

int main(int argc, char**) {
  return conv1d_test::CheckCases(conv1d_test::kFactors, argc > 1, conv1d_test::Check);
}
