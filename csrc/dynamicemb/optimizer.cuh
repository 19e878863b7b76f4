// File: optimizer.cuh
//
// One update of one row by the summed gradient of its key, in the type of the state: float, or
// double beside double weights. A row's own count of updates corrects Adam's bias.
//
//   SGD       w -= lr g
//   Adam      m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= lr m' / (sqrt(v') + eps)
//   AdaGrad   G += g^2;       w -= lr g / (sqrt(G) + eps)
//   row-wise  G += mean(g^2); w -= lr g / (sqrt(G) + eps)
//   FTRL      s = (n + g^2)^-p; z += g - (s - n^-p) / lr w; n += g^2
//             w = |z| <= l1 ? 0 : -(z - sign(z) l1) / ((beta + s) / lr + 2 l2)
//
// Decay: L2 adds wd w to g before anything, decoupled takes lr wd w off the weight.
#pragma once

#include <type_traits>

#include "csrc/dynamicemb/row.cuh"

namespace accel::dynamicemb {

ACCEL_HD float MinusExpm1(float x) { return -expm1f(x); }
ACCEL_HD double MinusExpm1(double x) { return -expm1(x); }

// The numbers of Hyper as they are computed with.
template <class Real>
struct Numbers {
  Real lr, eps, beta1, beta2, weight_decay;
  Real l1, l2, ftrl_beta, power;
  Real max_norm, clip;
  Real log_beta1, log_beta2;

  static constexpr int kParts = kHyperWords + 2;

  // Part k of kParts; threads share them.
  ACCEL_HD void Load(const Hyper& hyper, int k) {
    const auto* const words = reinterpret_cast<const double*>(&hyper);
    auto* const mine = reinterpret_cast<Real*>(this);
    mine[k] = static_cast<Real>(
        k < kHyperWords ? words[k] : log(k == kHyperWords ? hyper.beta1 : hyper.beta2));
  }
};

template <class Type>
struct RowUpdate {
  using Real = typename Type::Real;
  using State = std::conditional_t<std::is_same<Real, double>::value, Double, Float>;

  Optimizer optimizer;
  Decay decay;
  bool stochastic;
  const int64_t* calls;  // noise

  // grad(group, g): the four gradients of a group of this lane; called once or twice for each.
  template <class Grad>
  ACCEL_HD void operator()(const Numbers<Real>& h, const RowInfo& info, char* row,
                           const int64_t* key, const Grad& grad) const {
    Real* const state0 = reinterpret_cast<Real*>(row + info.state_offset);
    Real* const state1 = state0 + info.state_len;
    Real step = 0;
    if (info.step_offset >= 0) {
      const uint32_t before = *reinterpret_cast<const uint32_t*>(row + info.step_offset);
      step = static_cast<Real>(before) + Real(1);
    }
    Real denominator = 0;
    if (optimizer == Optimizer::kRowwiseAdaGrad) {
      Real sum = 0;
      for (int64_t g = Team::lane(); g * 4 < info.dim; g += Team::kLanes) {
        Real d[4], w[4];
        grad(g, d);
        if (decay == Decay::kL2) LoadRow(Type{}, row, g, w);
        for (int j = 0; j < 4 && g * 4 + j < info.dim; ++j) {
          if (decay == Decay::kL2) d[j] += h.weight_decay * w[j];
          sum += d[j] * d[j];
        }
      }
      const Real total = state0[0] + Team::Sum(sum) / Real(info.dim);
      Sync();
      if (Team::lane() == 0) state0[0] = total;
      denominator = Root(total) + h.eps;
    }
    Real fix1 = 1, fix2 = 1;
    if (optimizer == Optimizer::kAdam) {
      fix1 = Fix(step, h.log_beta1);
      fix2 = Fix(step, h.log_beta2);
    }
    Real norm = 0;
    for (int64_t g = Team::lane(); g * 4 < info.dim; g += Team::kLanes) {
      Real d[4], w[4], s0[4], s1[4];
      LoadRow(Type{}, row, g, w);
      if (optimizer != Optimizer::kSgd && optimizer != Optimizer::kRowwiseAdaGrad) {
        LoadRow(State{}, state0, g, s0);
        if (info.states > 1) LoadRow(State{}, state1, g, s1);
      }
      grad(g, d);
      for (int j = 0; j < 4; ++j) {
        if (decay == Decay::kL2) d[j] += h.weight_decay * w[j];
        const Real old = w[j];
        Any(h, d[j], fix1, fix2, denominator, &w[j], &s0[j], &s1[j]);
        if (decay == Decay::kDecoupled) w[j] -= h.lr * h.weight_decay * old;
        if (g * 4 + j < info.dim) norm += w[j] * w[j];
      }
      Store(row, key, g, w);
      if (optimizer != Optimizer::kSgd && optimizer != Optimizer::kRowwiseAdaGrad) {
        StoreRow(State{}, state0, g, s0);
        if (info.states > 1) StoreRow(State{}, state1, g, s1);
      }
    }
    if (h.max_norm > 0) Shrink(info, row, key, Root(Team::Sum(norm)), h.max_norm);
    Sync();
    if (info.step_offset >= 0 && Team::lane() == 0) {
      *reinterpret_cast<uint32_t*>(row + info.step_offset) = static_cast<uint32_t>(step);
    }
  }

  // Rounds and writes a group of weights.
  ACCEL_HD void Store(char* row, const int64_t* key, int64_t g, const Real* w) const {
    if (!stochastic || sizeof(typename Type::Stored) != 2) return StoreRow(Type{}, row, g, w);
    const Random4 noise = Philox(0x9e3779b97f4a7c15u ^ static_cast<uint64_t>(*calls),
                                 static_cast<uint64_t>(*key), static_cast<uint64_t>(g));
    Group<typename Type::Stored> out;
    for (int j = 0; j < 4; ++j) out.value[j] = NarrowRandomly(Type{}, w[j], noise.word[j]);
    reinterpret_cast<Group<typename Type::Stored>*>(row)[g] = out;
  }

  ACCEL_HD static float Root(float x) { return Sqrt(x); }
  ACCEL_HD static double Root(double x) { return sqrt(x); }

  // What corrects the bias of Adam's first and second moment at a step.
  ACCEL_HD static Real Fix(Real step, Real log_beta) {
    return Real(1) / MinusExpm1(step * log_beta);
  }

  // One weight and its state.
  template <Optimizer kOptimizer>
  ACCEL_HD static void One(const Numbers<Real>& h, Real g, Real fix1, Real fix2, Real denominator,
                           Real* w, Real* s0, Real* s1) {
    const Real lr = h.lr, eps = h.eps;
    if constexpr (kOptimizer == Optimizer::kSgd) {
      *w -= lr * g;
    } else if constexpr (kOptimizer == Optimizer::kAdam) {
      *s0 = h.beta1 * *s0 + (Real(1) - h.beta1) * g;
      *s1 = h.beta2 * *s1 + (Real(1) - h.beta2) * g * g;
      *w -= lr * (*s0 * fix1) / (Root(*s1 * fix2) + eps);
    } else if constexpr (kOptimizer == Optimizer::kAdaGrad) {
      *s0 += g * g;
      *w -= lr * g / (Root(*s0) + eps);
    } else if constexpr (kOptimizer == Optimizer::kRowwiseAdaGrad) {
      *w -= lr * g / denominator;
    } else {
      const Real n = *s1 + g * g;
      const Real p = -h.power;
      const Real now = p == Real(0.5) ? Root(n) : Power(n, p);
      const Real before = p == Real(0.5) ? Root(*s1) : Power(*s1, p);
      *s0 += g - (now - before) / lr * *w;
      *s1 = n;
      const Real size = *s0 < 0 ? -*s0 : *s0, l1 = h.l1;
      const Real past = size - l1;
      *w = past <= 0 ? Real(0)
                     : (*s0 < 0 ? past : -past) / ((h.ftrl_beta + now) / lr + Real(2) * h.l2);
    }
  }

  // The weights as they are stored, scaled to the greatest norm.
  ACCEL_HD void Shrink(const RowInfo& info, char* row, const int64_t* key, Real norm,
                       Real most) const {
    if (!(norm > most)) return;
    for (int64_t g = Team::lane(); g * 4 < info.dim; g += Team::kLanes) {
      Real w[4];
      LoadRow(Type{}, row, g, w);
      for (int j = 0; j < 4; ++j) w[j] *= most / norm;
      Store(row, key, g, w);
    }
  }

 private:
  ACCEL_HD static void Sync() {
#if defined(__CUDA_ARCH__)
    __syncwarp();
#endif
  }
  ACCEL_HD static float Power(float x, float y) { return powf(x, y); }
  ACCEL_HD static double Power(double x, double y) { return pow(x, y); }

  ACCEL_HD void Any(const Numbers<Real>& h, Real g, Real fix1, Real fix2, Real denominator, Real* w,
                    Real* s0, Real* s1) const {
    switch (optimizer) {
      case Optimizer::kSgd:
        return One<Optimizer::kSgd>(h, g, fix1, fix2, denominator, w, s0, s1);
      case Optimizer::kAdam:
        return One<Optimizer::kAdam>(h, g, fix1, fix2, denominator, w, s0, s1);
      case Optimizer::kAdaGrad:
        return One<Optimizer::kAdaGrad>(h, g, fix1, fix2, denominator, w, s0, s1);
      case Optimizer::kRowwiseAdaGrad:
        return One<Optimizer::kRowwiseAdaGrad>(h, g, fix1, fix2, denominator, w, s0, s1);
      case Optimizer::kFtrl:
        return One<Optimizer::kFtrl>(h, g, fix1, fix2, denominator, w, s0, s1);
    }
  }
};

}  // namespace accel::dynamicemb
