// File: row.cuh
//
// Four values at a time, of any type: of a row, whose arrays begin on 16 bytes and are as long as a
// multiple of four, and of a tensor, which may end anywhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "csrc/common/half.h"
#include "csrc/dynamicemb/initializer.cuh"
#include "csrc/dynamicemb/loops.cuh"

namespace accel::dynamicemb {

// A type of weights: what is stored, and what is computed with.
struct Float {
  using Stored = float;
  using Real = float;
};
struct Half {
  using Stored = uint16_t;
  using Real = float;
};
struct BFloat16 {
  using Stored = uint16_t;
  using Real = float;
};
struct Double {
  using Stored = double;
  using Real = double;
};

template <class Type>
ACCEL_HD typename Type::Real Widen(Type, typename Type::Stored x) {
  return x;
}
ACCEL_HD float Widen(Half, uint16_t x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x));
#else
  return Float16ToFloat(x);
#endif
}
ACCEL_HD float Widen(BFloat16, uint16_t x) { return OfBits(static_cast<uint32_t>(x) << 16); }

template <class Type>
ACCEL_HD typename Type::Stored Narrow(Type, typename Type::Real x) {
  return x;
}
ACCEL_HD uint16_t Narrow(Half, float x) {
#if defined(__CUDA_ARCH__)
  return __half_as_ushort(__float2half_rn(x));
#else
  return FloatToFloat16(x);
#endif
}
ACCEL_HD uint16_t Narrow(BFloat16, float x) {
#if defined(__CUDA_ARCH__)
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  return FloatToBFloat16(x);
#endif
}

// Rounds up with the probability of what is cut off; `noise`: 32 random bits.
template <class Type>
ACCEL_HD typename Type::Stored NarrowRandomly(Type type, typename Type::Real x, uint32_t) {
  return Narrow(type, x);
}
ACCEL_HD uint16_t NarrowRandomly(BFloat16 type, float x, uint32_t noise) {
  const uint32_t bits = Bits(x);
  if ((bits & 0x7f800000) == 0x7f800000) return Narrow(type, x);
  return static_cast<uint16_t>((bits + (noise & 0xffff)) >> 16);
}
ACCEL_HD uint16_t NarrowRandomly(Half type, float x, uint32_t noise) {
  const uint32_t bits = Bits(x), magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x477fe000 || magnitude < 0x38800000) return Narrow(type, x);
  return Narrow(type, OfBits((bits + (noise & 0x1fff)) & ~0x1fffu));
}

// ---- Of a row: whole groups, aligned

template <class Stored>
struct alignas(4 * sizeof(Stored) > 16 ? 16 : 4 * sizeof(Stored)) Group {
  Stored value[4];
};

template <class Type>
ACCEL_HD void LoadRow(Type type, const void* row, int64_t group, typename Type::Real* x) {
  const auto in = static_cast<const Group<typename Type::Stored>*>(row)[group];
  for (int j = 0; j < 4; ++j) x[j] = Widen(type, in.value[j]);
}

template <class Type>
ACCEL_HD void StoreRow(Type type, void* row, int64_t group, const typename Type::Real* x) {
  Group<typename Type::Stored> out;
  for (int j = 0; j < 4; ++j) out.value[j] = Narrow(type, x[j]);
  static_cast<Group<typename Type::Stored>*>(row)[group] = out;
}

// ---- Of a tensor: `whole` where every group is, and begins on its alignment

template <class Type, class Real>
ACCEL_HD void LoadSome(Type type, const void* data, int64_t at, int64_t left, bool whole, Real* x) {
  const auto* in = static_cast<const typename Type::Stored*>(data) + at;
  if (whole) {
    const auto group = *reinterpret_cast<const Group<typename Type::Stored>*>(in);
    for (int j = 0; j < 4; ++j) x[j] = static_cast<Real>(Widen(type, group.value[j]));
    return;
  }
  for (int j = 0; j < 4; ++j) x[j] = j < left ? static_cast<Real>(Widen(type, in[j])) : Real(0);
}

template <class Type, class Real>
ACCEL_HD void StoreSome(Type type, void* data, int64_t at, int64_t left, bool whole,
                        const Real* x) {
  auto* out = static_cast<typename Type::Stored*>(data) + at;
  using TypeReal = typename Type::Real;
  if (whole) {
    Group<typename Type::Stored> group;
    for (int j = 0; j < 4; ++j) group.value[j] = Narrow(type, static_cast<TypeReal>(x[j]));
    *reinterpret_cast<Group<typename Type::Stored>*>(out) = group;
    return;
  }
  for (int j = 0; j < 4 && j < left; ++j) out[j] = Narrow(type, static_cast<TypeReal>(x[j]));
}

// Calls f(Float{}), f(Half{}) ... on the host.
template <class F>
void WithType(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kHalf:
      return f(Half{});
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kDouble:
      return f(Double{});
    default:
      return f(Float{});
  }
}

template <class Real>
ACCEL_HD void LoadAny(DType dtype, const void* data, int64_t at, int64_t left, bool whole,
                      Real* x) {
  switch (dtype) {
    case DType::kHalf:
      return LoadSome(Half{}, data, at, left, whole, x);
    case DType::kBFloat16:
      return LoadSome(BFloat16{}, data, at, left, whole, x);
    case DType::kDouble:
      return LoadSome(Double{}, data, at, left, whole, x);
    default:
      return LoadSome(Float{}, data, at, left, whole, x);
  }
}

template <class Real>
ACCEL_HD void StoreAny(DType dtype, void* data, int64_t at, int64_t left, bool whole,
                       const Real* x) {
  switch (dtype) {
    case DType::kHalf:
      return StoreSome(Half{}, data, at, left, whole, x);
    case DType::kBFloat16:
      return StoreSome(BFloat16{}, data, at, left, whole, x);
    case DType::kDouble:
      return StoreSome(Double{}, data, at, left, whole, x);
    default:
      return StoreSome(Float{}, data, at, left, whole, x);
  }
}

inline int64_t SizeOf(DType dtype) {
  return dtype == DType::kDouble ? 8 : dtype == DType::kFloat ? 4 : 2;
}

// Whether every row of a tensor, and every column that a feature begins at, is a multiple of four
// values, so that its groups are whole. The columns are checked by the caller's `aligned`.
inline bool WholeGroups(const void* data, int64_t stride, DType dtype) {
  const int64_t bytes = SizeOf(dtype) * 4 > 16 ? 16 : SizeOf(dtype) * 4;
  return stride % 4 == 0 && reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

// The values of a row that is not stored.
template <class Type>
ACCEL_HD void MissingValues(Type, const RowSource& source, const RowInfo& info, int64_t key,
                            int64_t group, typename Type::Real* x) {
  if (!source.initialize) {
    for (int j = 0; j < 4; ++j) x[j] = static_cast<typename Type::Real>(info.eval_value);
    return;
  }
  float first[4];
  InitialValues(info, key, group, first);
  for (int j = 0; j < 4; ++j) x[j] = Widen(Type{}, Narrow(Type{}, first[j]));
}

// The values of row u, stored or not.
template <class Type>
ACCEL_HD void RowValues(Type type, const RowSource& source, const RowInfo& info, int64_t u,
                        int64_t group, typename Type::Real* x) {
  const int64_t address = source.rows[u];
  if (address != 0) {
    LoadRow(type, reinterpret_cast<const void*>(address), group, x);
  } else {
    MissingValues(type, source, info, source.keys[u], group, x);
  }
}

}  // namespace accel::dynamicemb
