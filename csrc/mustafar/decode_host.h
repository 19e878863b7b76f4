// File: decode_host.h
//
// The same decode on the host, for float32 too: plain loops over the bits, sums in float32.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "csrc/common/errors.h"
#include "csrc/common/half.h"
#include "csrc/mustafar/mustafar.h"

namespace accel::mustafar {

struct HostFloat32 {
  using Element = float;
  static float Load(Element x) { return x; }
  static Element Store(float x) { return x; }
};

struct HostFloat16 {
  using Element = uint16_t;
  static float Load(Element x) { return Float16ToFloat(x); }
  static Element Store(float x) { return FloatToFloat16(x); }
};

struct HostBFloat16 {
  using Element = uint16_t;
  static float Load(Element x) { return BFloat16ToFloat(x); }
  static Element Store(float x) { return FloatToBFloat16(x); }
};

// A token's vector, dense.
template <class Type>
void HostRow(const Cache& c, bool values, int sequence, int head, int token, bool in_window,
             float* out) {
  using Element = typename Type::Element;
  const int head_dim = c.head_dim;
  if (in_window) {
    const int64_t row =
        (static_cast<int64_t>(sequence) * c.heads + head) * c.window + token % c.window;
    const auto* const from =
        reinterpret_cast<const Element*>(values ? c.v_window : c.k_window) + row * head_dim;
    for (int d = 0; d < head_dim; ++d) out[d] = Type::Load(from[d]);
    return;
  }
  const Rows& rows = values ? c.v : c.k;
  const int64_t row = RowAt(c.Page(sequence, token / kBlockTokens), c.heads, head, token);
  const auto* from = reinterpret_cast<const Element*>(rows.values) + row * rows.kept;
  const uint32_t* const bitmap = rows.bitmaps + row * (head_dim / 32);
  int found = rows.kept;
  if (rows.kept < head_dim) {
    found = 0;
    for (int word = 0; word < head_dim / 32; ++word) found += __builtin_popcount(bitmap[word]);
  }
  Check(found == rows.kept, "a bitmap of ", values ? "v" : "k", " has ", found, " bits, its token ",
        rows.kept, " values");
  for (int d = 0; d < head_dim; ++d) {
    const bool there = rows.kept == head_dim || (bitmap[d / 32] >> d % 32 & 1);
    out[d] = there ? Type::Load(*from++) : 0.0f;
  }
}

// (batch, q_heads, D) to (batch, q_heads, D). A sequence without tokens gets zeros.
template <class Type>
void HostDecode(const DecodeParams& p) {
  using Element = typename Type::Element;
  const Cache& c = p.cache;
  const int groups = p.q_heads / c.heads, head_dim = c.head_dim;
  std::vector<float> q(groups * head_dim), sum(groups * head_dim), row(head_dim);
  std::vector<float> top(groups), weights(groups), probability(groups);
  for (int pair = 0; pair < c.batch * c.heads; ++pair) {
    const int sequence = pair / c.heads, head = pair % c.heads;
    const int64_t first = static_cast<int64_t>(pair) * groups * head_dim;
    for (size_t i = 0; i < q.size(); ++i) {
      q[i] = Type::Load(static_cast<const Element*>(p.q)[first + i]) * p.scale;
    }
    sum.assign(sum.size(), 0.0f);
    weights.assign(groups, 0.0f);
    top.assign(groups, -INFINITY);
    const State& state = c.state[sequence];
    for (int token = 0; token < state.tokens; ++token) {
      const bool in_window = token >= state.compressed;
      HostRow<Type>(c, false, sequence, head, token, in_window, row.data());
      for (int g = 0; g < groups; ++g) {
        float score = 0;
        for (int d = 0; d < head_dim; ++d) score += q[g * head_dim + d] * row[d];
        if (score > top[g]) {
          const float change = std::exp(top[g] - score);
          for (int d = 0; d < head_dim; ++d) sum[g * head_dim + d] *= change;
          weights[g] *= change;
          top[g] = score;
        }
        probability[g] = std::exp(score - top[g]);
        weights[g] += probability[g];
      }
      HostRow<Type>(c, true, sequence, head, token, in_window, row.data());
      for (int g = 0; g < groups; ++g) {
        for (int d = 0; d < head_dim; ++d) sum[g * head_dim + d] += probability[g] * row[d];
      }
    }
    for (size_t i = 0; i < sum.size(); ++i) {
      const float weight = weights[i / head_dim];
      static_cast<Element*>(p.out)[first + i] = Type::Store(weight > 0 ? sum[i] / weight : 0.0f);
    }
  }
}

}  // namespace accel::mustafar
