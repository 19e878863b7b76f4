// File: conv.h
//
// Causal depthwise convolution over tokens, as plain arguments of its kernels: pointers, strides in
// values, sizes. The same bytes go to a kernel on every kind of device.
//
//   s[t] = bias + sum over k of weight[k] * x[t - (width - 1) + k]        out[t] = s or SiLU(s)
//
// Before the first token of a sequence stand its states, width - 1 columns, or zeros.
#pragma once

#include <cstdint>

namespace accel::conv1d {

constexpr int kThreads = 128;       // of a block, but for the last kernel's
constexpr int kSumThreads = 256;    // of a block of backward_sum
constexpr int kUpdateChannels = 4;  // that a thread of update owns
constexpr int kMaxWidth = 8;

// Kernels are made for so many taps; a smaller width leaves the first ones out.
constexpr int TapsFor(int width) { return width <= 4 ? 4 : 8; }
constexpr int LeastWidth(int taps) { return taps == 4 ? 2 : 5; }

// Channels that a thread owns where they lie side by side: their taps stay in registers.
constexpr int ChannelsFor(int taps, int value_bytes) {
  return taps == 4 && value_bytes == 2 ? 4 : 2;
}

enum class Type : int32_t { kFloat32, kFloat16, kBFloat16, kFloat64 };

// Values by sequence (or state line), channel and token (or column).
struct Values {
  void* data;  // null: there are none
  int64_t sequence, channel, token;
  int32_t whole;  // rows lie on boundaries of what a kernel loads at once
  int32_t unused;
};

struct Weights {
  const void* data;
  const void* bias;  // null: zeros
  int64_t channel, tap, bias_stride;
  Type type;      // of data and bias
  int32_t width;  // 2 to kMaxWidth
  int32_t whole;  // the taps of a channel are loaded at once: no tap is left out
  int32_t silu;
};

// What a call is about.
struct Sizes {
  int32_t batch, channels, tokens;
  int32_t groups;  // of channels
  int32_t chunk;   // tokens that a thread walks along; of channel-first: steps of a group of lanes
  int32_t chunks;  // of a sequence
};

struct ForwardArgs {
  Values x, out;
  Weights weights;
  Values initial, last;    // states before the first token and behind the last one
  const int32_t* seq_idx;  // (batch, tokens), tokens side by side
  int64_t seq_idx_stride;
  Sizes sizes;
};

struct BackwardArgs {
  Values x, dout, dx;
  Weights weights;
  Values initial, dinitial, dlast;
  const int32_t* seq_idx;
  int64_t seq_idx_stride;
  const int32_t* starts;  // (sequences + 1): sequences one behind the other in a batch of one
  void* partial;          // (parts, taps + 1, channels) float: sums of dweight, then of dbias
  int32_t sequences;
  Sizes sizes;
};

struct SumArgs {
  const void* partial;
  void *dweight, *dbias;  // (channels, width) and (channels) or null, contiguous
  int32_t parts, channels, taps, width;
  Type type;
  int32_t unused;
};

// Sequences one behind the other in a batch of one.
struct PackedArgs {
  Values x, out;
  Weights weights;
  Values before, after;        // state lines read and written; the same ones or others
  const int32_t* starts;       // (sequences + 1)
  const int32_t* lines;        // (sequences) state line of each; null: its number
  const uint8_t* has_initial;  // (sequences) whether it begins with its line; null: all or none
  const int32_t* accepted;  // (sequences) >= 1: drafts are verified, so many of the last were right
  int32_t sequences, line_count, pad_line, columns;
  int32_t all_initial;
  int32_t unused;
  Sizes sizes;
};

struct UpdateArgs {
  Values x, out, state;
  Weights weights;
  const int32_t* lengths;  // (batch) tokens so far: the state is a circle; null: it is shifted
  const int32_t* lines;    // (batch) state line of each, < 0: none; null: its number
  int32_t line_count, columns;
  int32_t flat;  // the columns of kUpdateChannels channels are loaded at once
  int32_t unused;
  Sizes sizes;
};

}  // namespace accel::conv1d
