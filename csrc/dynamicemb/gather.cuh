// File: gather.cuh
//
// The lookup on the GPU where all groups are whole. A lane finds one row of the warp's work, all
// lanes copy: kAtOnce rows are on their way at a time, whatever bag they belong to, and results are
// written past the caches, which are for rows.
#pragma once

#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/row.cuh"

namespace accel::dynamicemb {

constexpr int kAtOnce = 8;

template <class Type, class Real>
__device__ __forceinline__ void StoreOnce(Type type, void* data, int64_t at, const Real* x) {
  Group<typename Type::Stored> group;
  for (int j = 0; j < 4; ++j) {
    group.value[j] = Narrow(type, static_cast<typename Type::Real>(x[j]));
  }
  using Word = std::conditional_t<sizeof(group) == 8, uint2, uint4>;
  auto* const to = reinterpret_cast<Word*>(static_cast<typename Type::Stored*>(data) + at);
  constexpr int kWords = sizeof(group) / sizeof(Word);
  Word words[kWords];
  memcpy(words, &group, sizeof(group));
  for (int w = 0; w < kWords; ++w) __stcs(to + w, words[w]);
}

// Each warp gathers `each` rows of a sequence, at most 32.
template <class Type, class Out, class Body>
__global__ void __launch_bounds__(kBlock) SequenceKernel(int64_t n, int each, Body body) {
  using Real = typename Type::Real;
  const RowSource& source = body.source;
  const int lane = threadIdx.x % 32;
  const int64_t base = (blockIdx.x * int64_t{kWarps} + threadIdx.x / 32) * each;
  if (base >= n) return;
  const int count = static_cast<int>(Min<int64_t>(each, n - base));
  int64_t address = 0;
  int dim = 0;
  Real missing = 0;
  if (lane < count) {
    const int64_t u = body.RowOf(base + lane);
    const RowInfo& info = source.infos[SegmentOf(source.row_offsets, source.tables, u)];
    address = source.rows[u];
    dim = static_cast<int>(info.dim);
    missing = static_cast<Real>(info.eval_value);
  }
  const int stride = static_cast<int>(body.bags.out_stride);
  for (int column = lane * 4; column - lane * 4 < stride; column += 128) {
    for (int first = 0; first < count; first += kAtOnce) {
      Real x[kAtOnce][4] = {};
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t from = __shfl_sync(kFullMask, address, first + k);
        const Real other = __shfl_sync(kFullMask, missing, first + k);
        if (column >= __shfl_sync(kFullMask, dim, first + k)) continue;
        if (from != 0) {
          LoadRow(Type{}, reinterpret_cast<const void*>(from), column / 4, x[k]);
        } else {
          for (int j = 0; j < 4; ++j) x[k][j] = other;
        }
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (first + k >= count || column >= stride) continue;
        StoreOnce(Out{}, body.out, (base + first + k) * stride + column, x[k]);
      }
    }
  }
  if (!source.initialize) return;
  for (unsigned left = __ballot_sync(kFullMask, lane < count && address == 0); left != 0;
       left &= left - 1) {
    body.Sequence(base + __ffs(left) - 1);
  }
}

// A lane's bag.
template <class Real>
struct LaneBag {
  int end = 0;     // of its occurrences, counted from the first one of the warp
  int dim = 0;     // columns
  int64_t at = 0;  // the first of them in the output
  Real scale = 0;
  Real missing = 0;

  template <class Body>
  __device__ __forceinline__ void Load(const Body& body, int64_t bag, int64_t begin) {
    const Bags& bags = body.bags;
    const auto feature = static_cast<uint32_t>(bag) / static_cast<uint32_t>(bags.batch);
    const int64_t sample = bag - feature * bags.batch;
    const int64_t last = bags.offsets[bag + 1], length = last - bags.offsets[bag];
    end = static_cast<int>(last - begin);
    dim = static_cast<int>(bags.dim_offsets[feature + 1] - bags.dim_offsets[feature]);
    at = sample * bags.out_stride + bags.dim_offsets[feature];
    scale = bags.pooling == Pooling::kMean && length > 0 ? Real(1) / Real(length) : Real(1);
    missing = static_cast<Real>(body.source.infos[bags.feature_table[feature]].eval_value);
  }
};

// What a warp knows of an occurrence.
template <class Real>
struct BagStep {
  int64_t row;  // address
  Real weight;
  int16_t owner, dim;  // the bag, counted from the first one of the warp; columns
};

// Each warp pools `each` bags that follow one another, at most kMostBags of `all`.
constexpr int kMostBags = 8;

template <class Type, class Out, class Body>
__global__ void __launch_bounds__(kBlock) BagKernel(int64_t all, int each, Body body) {
  using Real = typename Type::Real;
  __shared__ BagStep<Real> all_steps[kWarps][32];
  BagStep<Real>* const steps = all_steps[threadIdx.x / 32];
  const RowSource& source = body.source;
  const auto* const weights = static_cast<const Real*>(body.bags.weights);
  const int lane = threadIdx.x % 32;
  const int64_t base = (blockIdx.x * int64_t{kWarps} + threadIdx.x / 32) * each;
  if (base >= all) return;
  const int count = static_cast<int>(Min<int64_t>(each, all - base));
  const int64_t begin = body.bags.offsets[base];
  LaneBag<Real> mine;
  if (lane < count) mine.Load(body, base + lane, begin);
  const int total = __shfl_sync(kFullMask, mine.end, count - 1);
  for (int column = lane * 4; __any_sync(kFullMask, column - lane * 4 < mine.dim); column += 128) {
    int bag = 0;
    Real sum[4] = {0, 0, 0, 0};
    const auto end_bag = [&] {
      const int64_t at = __shfl_sync(kFullMask, mine.at, bag);
      const int dim = __shfl_sync(kFullMask, mine.dim, bag);
      const Real scale = __shfl_sync(kFullMask, mine.scale, bag);
      for (int j = 0; j < 4; ++j) sum[j] *= scale;
      if (column < dim) StoreOnce(Out{}, body.out, at + column, sum);
      for (int j = 0; j < 4; ++j) sum[j] = 0;
      ++bag;
    };
    for (int from = 0; from < total; from += 32) {
      const bool there = from + lane < total;
      int owner = 0;
#pragma unroll
      for (int j = 0; j < kMostBags; ++j) {
        owner += j < count && __shfl_sync(kFullMask, mine.end, j) <= from + lane;
      }
      const int64_t i = begin + from + lane;
      const int64_t address = there ? source.rows[body.RowOf(i)] : 0;
      const Real weight = there && weights != nullptr ? weights[i] : Real(1);
      const int dim = __shfl_sync(kFullMask, mine.dim, owner % 32);
      const Real missing = __shfl_sync(kFullMask, mine.missing, owner % 32);
      const bool holes = __any_sync(kFullMask, there && address == 0);
      if (source.initialize && holes) {
        for (int k = 0; k < count; ++k) body.Bag(base + k);
        return;
      }
      __syncwarp();
      steps[lane] = {address, weight, static_cast<int16_t>(owner),
                     static_cast<int16_t>(there ? dim : 0)};
      __syncwarp();
      const int here = Min(32, total - from);
      for (int first = 0; first < here; first += kAtOnce) {
        Real x[kAtOnce][4] = {};
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const BagStep<Real>& step = steps[first + k];
          const Real other = holes ? __shfl_sync(kFullMask, missing, first + k) : Real(0);
          if (column >= step.dim) continue;
          if (!holes || step.row != 0) {
            LoadRow(Type{}, reinterpret_cast<const void*>(step.row), column / 4, x[k]);
          } else {
            for (int j = 0; j < 4; ++j) x[k][j] = other;
          }
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          if (first + k >= here) break;
          const BagStep<Real>& step = steps[first + k];
          while (bag < step.owner) end_bag();
          for (int j = 0; j < 4; ++j) sum[j] += step.weight * x[k][j];
        }
      }
    }
    while (bag < count) end_bag();
  }
}

// How much a warp takes: little while there are not enough warps for the GPU.
inline int EachOf(int64_t n, int most) {
  constexpr int64_t kWarpsOfGpu = 132 * 32;
  int each = most;
  while (each > 1 && n / each < kWarpsOfGpu) each /= 2;
  return each;
}

template <class Type, class Out, class Body>
int LaunchGather(const Where& where, int64_t n, const Body& body) {
  if (n == 0) return cudaSuccess;
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const bool sequence = body.bags.pooling == Pooling::kNone;
  const int each = Max(sequence ? kAtOnce : 1, EachOf(n, sequence ? 32 : kMostBags));
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(n, int64_t{each} * kWarps));
  if (sequence) {
    SequenceKernel<Type, Out><<<blocks, kBlock, 0, stream>>>(n, each, body);
  } else {
    BagKernel<Type, Out><<<blocks, kBlock, 0, stream>>>(n, each, body);
  }
  return cudaGetLastError();
}

}  // namespace accel::dynamicemb
