// File: reference.h
//
// The convolution and its gradients as conv.h writes them, in doubles, token by token.
#pragma once

#include <cmath>
#include <vector>

#include "tests/causal_conv1d/on_host/tensors.h"

namespace conv1d_test {

struct Inputs {
  Tensor x, weight;  // weight: (1, channels, width)
  std::vector<double> bias;
  Tensor initial;            // without values: zeros
  std::vector<int> seq_idx;  // (sequences, tokens), or nothing
  bool silu = false;
  int width() const { return weight.c; }
};

struct Gradients {
  Tensor dx, dweight, dinitial;
  std::vector<double> dbias;
};

// What stands under a tap: the input `back` tokens before t, or a state; whether it counts.
inline bool Counts(const Inputs& in, int i, int t, int back) {
  if (in.seq_idx.empty()) return true;
  const int* ids = &in.seq_idx[static_cast<size_t>(i) * in.x.c];
  return ids[std::max(t - back, 0)] == ids[t];
}

inline double Under(const Inputs& in, int i, int j, int token) {
  if (token >= 0) return in.x.at(i, j, token);
  const int column = token + in.width() - 1;
  return in.initial.value.empty() || column < 0 ? 0 : in.initial.at(i, j, column);
}

inline bool Padding(const Inputs& in, int i, int t) {
  return !in.seq_idx.empty() && in.seq_idx[static_cast<size_t>(i) * in.x.c + t] < 0;
}

inline double Sum(const Inputs& in, int i, int j, int t) {
  double sum = in.bias.empty() ? 0 : in.bias[j];
  for (int k = 0; k < in.width(); ++k) {
    const int back = in.width() - 1 - k;
    if (Counts(in, i, t, back)) sum += in.weight.at(0, j, k) * Under(in, i, j, t - back);
  }
  return sum;
}

inline Tensor Convolved(const Inputs& in) {
  Tensor out(in.x.a, in.x.b, in.x.c);
  for (int i = 0; i < out.a; ++i) {
    for (int j = 0; j < out.b; ++j) {
      for (int t = 0; t < out.c; ++t) {
        const double sum = Sum(in, i, j, t);
        out.at(i, j, t) = Padding(in, i, t) ? 0 : in.silu ? sum / (1 + std::exp(-sum)) : sum;
      }
    }
  }
  return out;
}

// The last width - 1 columns of states and inputs.
inline Tensor FinalStates(const Inputs& in) {
  Tensor states(in.x.a, in.x.b, in.width() - 1);
  for (int i = 0; i < states.a; ++i) {
    for (int j = 0; j < states.b; ++j) {
      for (int k = 0; k < states.c; ++k) {
        states.at(i, j, k) = Under(in, i, j, in.x.c - states.c + k);
      }
    }
  }
  return states;
}

// dfinal without values: none.
inline Gradients Backward(const Inputs& in, const Tensor& dout, const Tensor& dfinal) {
  const int history = in.width() - 1;
  Gradients g{Tensor(in.x.a, in.x.b, in.x.c), Tensor(1, in.x.b, in.width()),
              Tensor(in.x.a, in.x.b, history), std::vector<double>(in.x.b)};
  const auto add = [&](int i, int j, int token, double gradient) {
    if (token >= 0) {
      g.dx.at(i, j, token) += gradient;
    } else if (token >= -history) {
      g.dinitial.at(i, j, token + history) += gradient;
    }
  };
  for (int i = 0; i < in.x.a; ++i) {
    for (int j = 0; j < in.x.b; ++j) {
      for (int t = 0; t < in.x.c; ++t) {
        if (Padding(in, i, t)) continue;
        double ds = dout.at(i, j, t);
        if (in.silu) {
          const double sum = Sum(in, i, j, t), sigmoid = 1 / (1 + std::exp(-sum));
          ds *= sigmoid * (1 + sum * (1 - sigmoid));
        }
        g.dbias[j] += ds;
        for (int k = 0; k < in.width(); ++k) {
          const int back = history - k;
          if (!Counts(in, i, t, back)) continue;
          g.dweight.at(0, j, k) += ds * Under(in, i, j, t - back);
          add(i, j, t - back, ds * in.weight.at(0, j, k));
        }
      }
      for (int k = 0; k < history && !dfinal.value.empty(); ++k) {
        add(i, j, in.x.c - history + k, dfinal.at(i, j, k));
      }
    }
  }
  return g;
}

}  // namespace conv1d_test
