// File: tensors.h
//
// Tensors of the tests: values as doubles, and the same values in memory as a kernel wants them, in
// buffers of the exact size, so that a sanitizer sees each step beside them.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "csrc/causal_conv1d/conv.cuh"

namespace conv1d_test {

using accel::conv1d::Values;

// (sequences, channels, tokens)
struct Tensor {
  int a = 0, b = 0, c = 0;
  std::vector<double> value;

  Tensor() = default;
  Tensor(int a, int b, int c) : a(a), b(b), c(c), value(static_cast<size_t>(a) * b * c) {}
  double& at(int i, int j, int k) { return value[(static_cast<size_t>(i) * b + j) * c + k]; }
  double at(int i, int j, int k) const { return value[(static_cast<size_t>(i) * b + j) * c + k]; }
};

// The same numbers on every machine.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 2 + 1) {}
  uint32_t Next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33);
  }
  int Below(int n) { return static_cast<int>(Next() % static_cast<uint32_t>(n)); }
  double Uniform() { return Next() / double(1u << 31) * 2 - 1; }

 private:
  uint64_t state_;
};

template <class T>
double ToDouble(T x) {
  return accel::ToFloat(x);
}

template <class T>
T FromDouble(double x) {
  T value;
  if constexpr (sizeof(T) == 8) {
    value = x;
  } else {
    accel::FromFloat(static_cast<float>(x), &value);
  }
  return value;
}

// Random values that T can hold.
template <class T>
Tensor Random(int a, int b, int c, Numbers* numbers) {
  Tensor t(a, b, c);
  for (double& x : t.value) x = ToDouble(FromDouble<T>(numbers->Uniform()));
  return t;
}

enum class Layout { kFirst, kLast };  // tokens or channels lie side by side

// A tensor in memory. Loose: with gaps between its rows, and begun off every boundary.
template <class T>
class Buffer {
 public:
  Buffer(const Tensor& t, Layout layout, bool loose) : t_(t), shift_(loose ? 1 : 0) {
    const int64_t gap = loose ? 3 : 0;
    if (layout == Layout::kFirst) {
      stride_[2] = 1, stride_[1] = t.c + gap, stride_[0] = stride_[1] * t.b + gap;
    } else {
      stride_[1] = 1, stride_[2] = t.b + gap, stride_[0] = stride_[2] * t.c + gap;
    }
    size_ = shift_;
    if (!t.value.empty()) {
      size_ += 1 + (t.a - 1) * stride_[0] + (t.b - 1) * stride_[1] + (t.c - 1) * stride_[2];
    }
    data_.reset(new T[size_]);
    std::memset(static_cast<void*>(data_.get()), 0xff, size_ * sizeof(T));  // NaN
    Each([&](int i, int j, int k) { *Place(i, j, k) = FromDouble<T>(t.at(i, j, k)); });
  }

  // The same shape without values: all of it is NaN.
  static Buffer Empty(int a, int b, int c, Layout layout, bool loose) {
    Buffer made(Tensor(a, b, c), layout, loose);
    std::memset(static_cast<void*>(made.data_.get()), 0xff, made.size_ * sizeof(T));
    return made;
  }

  Values values(int at_once) const {
    Values v{data_.get() + shift_, stride_[0], stride_[1], stride_[2], 0, 0};
    const auto fits = [&](int n, int64_t stride) { return n <= 1 || stride % at_once == 0; };
    v.whole = reinterpret_cast<uintptr_t>(v.data) % (at_once * sizeof(T)) == 0 &&
              (t_.b <= 1 || stride_[1] == 1) && fits(t_.a, stride_[0]) && fits(t_.c, stride_[2]);
    return v;
  }

  Tensor tensor() const {
    Tensor t = t_;
    Each([&](int i, int j, int k) { t.at(i, j, k) = ToDouble(*Place(i, j, k)); });
    return t;
  }

  // Whether nothing was written into the gaps.
  bool GapsUntouched() const {
    std::vector<bool> inside(size_);
    Each([&](int i, int j, int k) { inside[Place(i, j, k) - data_.get()] = true; });
    for (size_t at = 0; at < size_; ++at) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(data_.get() + at);
      for (size_t byte = 0; byte < sizeof(T); ++byte) {
        if (!inside[at] && bytes[byte] != 0xff) return false;
      }
    }
    return true;
  }

 private:
  template <class Do>
  void Each(Do with) const {
    for (int i = 0; i < t_.a; ++i) {
      for (int j = 0; j < t_.b; ++j) {
        for (int k = 0; k < t_.c; ++k) with(i, j, k);
      }
    }
  }
  T* Place(int i, int j, int k) const {
    return data_.get() + shift_ + i * stride_[0] + j * stride_[1] + k * stride_[2];
  }

  Tensor t_;
  size_t shift_, size_ = 0;
  int64_t stride_[3];
  std::unique_ptr<T[]> data_;
};

}  // namespace conv1d_test
