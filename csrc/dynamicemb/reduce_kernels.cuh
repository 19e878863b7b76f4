// File: reduce_kernels.cuh
//
// The backward on the GPU (reduce.cuh). A warp works through its occurrences one after the other;
// the gradients of the next ones are copied to shared memory meanwhile, and the rows that will be
// updated are on their way to the L2 cache. What there is to know of an occurrence is read once, by
// a lane of its own.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/reduce.cuh"

namespace accel::dynamicemb {

__device__ __forceinline__ void PrefetchL2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p));
}

// Occurrences that a warp works on: its chunk, and what a key that begins there has beyond. A key
// of at most kChunk of them is done by the warp of the chunk that it begins in; a longer one is a
// span of partial sums, one for each chunk.
struct Range {
  int64_t start, stop;
  bool runs_in = false, runs_out = false;  // the first, the last key is a span
};
constexpr int kMostOccurrences = 2 * kChunk;

// How many lanes from 0 on say yes.
__device__ __forceinline__ int Leading(bool yes) {
  const unsigned no = ~__ballot_sync(kFullMask, yes);
  return no == 0 ? kWarpSize : __ffs(no) - 1;
}

__device__ __forceinline__ Range RangeOf(const int32_t* ids, int64_t n, int64_t begin) {
  const int lane = Team::lane();
  const int64_t end = Min<int64_t>(begin + kChunk, n);
  const auto is = [&](int64_t at, int id) { return at >= 0 && at < n && ids[at] == id; };
  Range range = {begin, end};
  const int first = ids[begin], last = ids[end - 1];
  const int before = Leading(is(begin - 1 - lane, first));
  if (before > 0) {
    const int ahead = Leading(is(begin + lane, first));
    range.runs_in = before + ahead > kChunk;
    if (!range.runs_in) range.start = Min(begin + ahead, end);
  }
  if (last == first && before > 0) return range;
  const int after = Leading(is(end + lane, last));
  if (after > 0) {
    const int inside = Leading(end - 1 - lane >= begin && is(end - 1 - lane, last));
    range.runs_out = inside + after > kChunk;
    if (!range.runs_out) range.stop = end + after;
  }
  return range;
}

// What a warp knows of its occurrences, and their gradients that are on their way: groups of at
// most 16 bytes, each lane its own.
template <class Type, int kGroups>
struct WarpWork {
  using Real = typename Type::Real;
  static constexpr bool kCopies = sizeof(Real) == 4;
  static constexpr int kDepth = kCopies ? 8 / kGroups : 1;
  struct Step {
    int64_t place;  // of the gradient, in values, and the row's dim << 48
    Real scale;
    int id;
  };
  static constexpr int64_t kPlaceMask = (int64_t{1} << 48) - 1;

  uint4 ring[kDepth][kCopies ? kGroups : 1][kWarpSize];
  Step step[kMostOccurrences];
  int64_t row[kMostOccurrences];   // address, at the last occurrence of a key that is finished here
  int32_t tail[kMostOccurrences];  // there 4 * table, and for spans + 1 (in) or + 2 (out); else -1

  __device__ __forceinline__ void Fill(const ReduceParams<Type>& p, const Range& range) {
    const RowSource& rows = p.finish.source;
    const int count = static_cast<int>(range.stop - range.start);
    const int last = p.ids[range.stop - 1], first = p.ids[range.start];
    for (int s = Team::lane(); s < count; s += kWarpSize) {
      const int64_t i = range.start + s;
      const int id = p.ids[i];
      const bool ends = s + 1 == count || p.ids[i + 1] != id;
      const auto place = p.source.PlaceOf(p.order[i]);
      const auto table = static_cast<int>(SegmentOf(rows.row_offsets, rows.tables, id));
      const int kind = range.runs_in && id == first ? 1 : range.runs_out && id == last ? 2 : 0;
      step[s] = {place.at | rows.infos[table].dim << 48, place.scale, id};
      tail[s] = ends ? table * 4 + kind : -1;
      row[s] = ends && kind == 0 && p.finish.sums == nullptr ? rows.rows[id] : 0;
    }
    __syncwarp();
  }

  // Sends for occurrence s: its gradient, if those go through the ring, and its row.
  __device__ __forceinline__ void Send(const ReduceParams<Type>& p, int s, int count, bool copies) {
    const int lane = Team::lane();
    if (s < count) {
      if (const int64_t address = row[s]) {
        const RowInfo& info = p.finish.source.infos[tail[s] / 4];
        for (int at = lane * 128; at < info.row_bytes; at += 4096) {
          PrefetchL2(reinterpret_cast<const char*>(address) + at);
        }
      }
      const int64_t place = step[s].place & kPlaceMask;
      const int dim = static_cast<int>(step[s].place >> 48);
#pragma unroll
      for (int k = 0; k < kGroups; ++k) {
        const int value = (k * kWarpSize + lane) * 4;
        if (!kCopies || !copies || value >= dim) continue;
        uint4* const to = &ring[s % kDepth][kCopies ? k : 0][lane];
        if (p.source.bags.out_dtype == DType::kFloat) {
          __pipeline_memcpy_async(to, static_cast<const float*>(p.source.grads) + place + value,
                                  16);
        } else {
          __pipeline_memcpy_async(to, static_cast<const uint16_t*>(p.source.grads) + place + value,
                                  8);
        }
      }
    }
    __pipeline_commit();
  }

  // The group k of the gradient of occurrence s, whose copy has arrived.
  __device__ __forceinline__ void Take(const ReduceParams<Type>& p, int s, int k, bool copies,
                                       Real* x) const {
    const int lane = Team::lane();
    const int dim = static_cast<int>(step[s].place >> 48);
    if (!kCopies || !copies) {
      const int64_t place = step[s].place & kPlaceMask;
      return p.source.Load({place, Real(1)}, k * kWarpSize + lane, dim, x);
    }
    const void* const from = &ring[s % kDepth][kCopies ? k : 0][lane];
    if (p.source.bags.out_dtype == DType::kFloat) {
      LoadSome(Float{}, from, 0, 4, true, x);
    } else if (p.source.bags.out_dtype == DType::kHalf) {
      LoadSome(Half{}, from, 0, 4, true, x);
    } else {
      LoadSome(BFloat16{}, from, 0, 4, true, x);
    }
  }
};

// The numbers of the optimizer in shared memory. All threads of a block; a barrier follows.
template <class Real>
__device__ __forceinline__ void LoadNumbers(Numbers<Real>& shared, const Hyper* hyper) {
  // The logarithms by a warp of their own.
  const int k = threadIdx.x < kHyperWords ? threadIdx.x : int(threadIdx.x) - 32 + kHyperWords;
  if (k >= 0 && k < Numbers<Real>::kParts && (threadIdx.x < kHyperWords || threadIdx.x >= 32)) {
    shared.Load(*hyper, k);
  }
}

template <class Type, int kGroups>
__global__ void __launch_bounds__(kBlock)
    ReduceKernel(const __grid_constant__ ReduceParams<Type> p) {
  using Real = typename Type::Real;
  using Work = WarpWork<Type, kGroups>;
  __shared__ Work works[kWarps];
  __shared__ Numbers<Real> numbers;
  const int64_t chunk = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarpSize;
  const int lane = Team::lane();
  LoadNumbers(numbers, p.hyper);
  __syncthreads();
  if (chunk * kChunk >= p.n) return;
  const Range range = RangeOf(p.ids, p.n, chunk * kChunk);
  const int count = static_cast<int>(range.stop - range.start);
  if (count == 0) return;
  if (range.runs_out && lane == 0) p.spans[atomicAdd(p.span_count, 1)] = static_cast<int>(chunk);
  Work& work = works[threadIdx.x / kWarpSize];
  work.Fill(p, range);
  const bool copies = p.source.whole && p.source.bags.out_dtype != DType::kDouble;
  const Real clip = numbers.clip;
  Held<Real, kGroups> sum;
  sum.Clear();
#pragma unroll 1
  for (int s = 0; s < Work::kDepth; ++s) work.Send(p, s, count, copies);
#pragma unroll 1
  for (int s = 0; s < count; ++s) {
    __pipeline_wait_prior(Work::kDepth - 1);
    const int dim = static_cast<int>(work.step[s].place >> 48);
    const Real scale = work.step[s].scale;
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      if ((k * kWarpSize + lane) * 4 >= dim) continue;
      Real x[4];
      work.Take(p, s, k, copies, x);
      p.source.Add(scale, clip, x, sum.value[k]);
    }
    work.Send(p, s + Work::kDepth, count, copies);
    const int tail = work.tail[s];
    if (tail < 0) continue;
    if (tail % 4 != 0) {
      Real* const to = p.partial + (chunk * 2 + tail % 4 - 1) * p.partial_stride;
#pragma unroll
      for (int k = 0; k < kGroups; ++k) {
        const int value = (k * kWarpSize + lane) * 4;
        if (value >= dim) continue;
        *reinterpret_cast<Group<Real>*>(to + value) =
            *reinterpret_cast<const Group<Real>*>(sum.value[k]);
      }
    } else {
      const int id = work.step[s].id;
      const RowInfo& info = p.finish.source.infos[tail / 4];
      p.finish(numbers, id, info, sum);
    }
    sum.Clear();
  }
}

// A key that begins in a chunk and lies in later ones, too.
struct Span {
  int id = -1;
  int64_t chunk = 0;
  int64_t parts = 0;  // chunks that it is in; 0: there is none
};

// That which begins in a chunk. Whole warps only.
template <class Type>
__device__ __forceinline__ Span SpanOf(const ReduceParams<Type>& p, int64_t chunk) {
  Span span;
  span.chunk = chunk;
  span.id = p.ids[chunk * kChunk + kChunk - 1];
  const int64_t chunks = CeilDiv<int64_t>(p.n, kChunk);
  // How many of the chunks at, at + step ... begin with the key.
  const auto reached = [&](int64_t at, int64_t step) {
    const int64_t c = at + step * Team::lane();
    return Leading(c < chunks && p.ids[c * kChunk] == span.id);
  };
  int64_t past = chunk + 1;  // the first chunk that is not known to be reached
  for (;;) {
    const int some = reached(past, 1);
    past += some;
    if (some < kWarpSize) break;
    const int leaps = reached(past, kWarpSize);
    if (leaps > 1) past += (leaps - 1) * kWarpSize;
  }
  span.parts = past - chunk;
  return span;
}

// Sums the parts first, first + step ... of a span.
template <class Type, int kGroups>
__device__ __forceinline__ void AddParts(const ReduceParams<Type>& p, const Span& span, int64_t dim,
                                         int64_t first, int64_t step,
                                         Held<typename Type::Real, kGroups>& sum) {
  using Real = typename Type::Real;
#pragma unroll 4
  for (int64_t part = first; part < span.parts; part += step) {
    const int64_t slot = (span.chunk + part) * 2 + (part == 0 ? 1 : 0);
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      const int value = (k * kWarpSize + Team::lane()) * 4;
      if (value >= dim) continue;
      const auto x =
          *reinterpret_cast<const Group<Real>*>(p.partial + slot * p.partial_stride + value);
      for (int j = 0; j < 4; ++j) sum.value[k][j] += x.value[j];
    }
  }
}

// Spans: short ones by a warp, long ones by a block.
template <class Type, int kGroups>
__global__ void __launch_bounds__(kBlock)
    CombineKernel(const __grid_constant__ ReduceParams<Type> p) {
  using Real = typename Type::Real;
  constexpr int kOwnParts = 16;
  __shared__ Numbers<Real> numbers;
  __shared__ Span spans[kWarps];
  __shared__ Group<Real> parts[kWarps][kWarpSize];
  const int warp = threadIdx.x / kWarpSize, lane = Team::lane();
  const int count = *p.span_count;
  const int blocks = static_cast<int>(gridDim.x);
  if (static_cast<int>(blockIdx.x) >= count) return;
  LoadNumbers(numbers, p.hyper);
  Held<Real, kGroups> sum;
  for (int base = blockIdx.x; base < count; base += blocks * kWarps) {
    // Neighbours go to different blocks: the longest spans of a table are side by side.
    const int at = base + warp * blocks;
    const Span mine = at < count ? SpanOf(p, p.spans[at]) : Span();
    __syncthreads();
    if (lane == 0) spans[warp] = mine;
    __syncthreads();
    if (mine.parts > 0 && mine.parts <= kOwnParts) {
      const RowInfo& info = p.InfoOf(mine.id);
      sum.Clear();
      AddParts(p, mine, info.dim, 0, 1, sum);
      p.finish(numbers, mine.id, info, sum);
    }
    for (int s = 0; s < kWarps; ++s) {
      const Span& span = spans[s];
      if (span.parts <= kOwnParts) continue;
      const RowInfo& info = p.InfoOf(span.id);
      sum.Clear();
      AddParts(p, span, info.dim, warp, kWarps, sum);
#pragma unroll
      for (int k = 0; k < kGroups; ++k) {
        __syncthreads();
        for (int j = 0; j < 4; ++j) parts[warp][lane].value[j] = sum.value[k][j];
        __syncthreads();
        if (warp > 0) continue;
        for (int w = 1; w < kWarps; ++w) {
          for (int j = 0; j < 4; ++j) sum.value[k][j] += parts[w][lane].value[j];
        }
      }
      if (warp == 0) p.finish(numbers, span.id, info, sum);
    }
  }
}

template <class Type>
__global__ void __launch_bounds__(kBlock)
    UpdateKernel(int64_t n, const Hyper* hyper, UpdateBody<Type> body) {
  __shared__ Numbers<typename Type::Real> numbers;
  LoadNumbers(numbers, hyper);
  __syncthreads();
  const int64_t u = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarpSize;
  if (u < n) body(numbers, u);
}

}  // namespace accel::dynamicemb
