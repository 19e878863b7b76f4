// File: reduce_quickly.cuh
//
// The first pass of the backward (reduce.cuh) where a lane has one group of every row: kBatch
// gradients are on their way to registers, and kAhead rows to shared memory, while the keys of the
// batch before are finished. What there is to know of an occurrence is read once, by a lane of its
// own, in three rounds of loads. The sums are those of ReduceKernel, bit for bit.
#pragma once

#include "csrc/dynamicemb/reduce_kernels.cuh"
#include "csrc/dynamicemb/update_quickly.cuh"

namespace accel::dynamicemb {

constexpr int kBatch = 4, kAhead = 3;
// Small blocks: one gives its place up when the slowest of its warps is done.
constexpr int kQuickBlock = 128, kQuickWarps = kQuickBlock / kWarpSize;
// Of a multiprocessor: as many as need no register spilled.
constexpr int QuickBlocks(int optimizer) { return optimizer < 0 ? 4 : optimizer == 0 ? 8 : 6; }

// The occurrences of a warp, as RangeOf finds them, counted from the first one of its chunk. A lane
// has those at its number and at 32 more.
struct Window {
  int start = 0, stop = 0;
  bool runs_in = false, runs_out = false;
  int first = -1, last = -1;  // keys
  int32_t order = 0, order_beyond = 0;
  int id = -1;
  uint64_t ends = 0;  // bit s: occurrence start + s is the last of its key, or of this warp's

  __device__ __forceinline__ void Load(const int32_t* ids, const int32_t* occurrences, int64_t n,
                                       int64_t begin) {
    const int lane = Team::lane();
    const int64_t at = begin + lane, beyond = at + kChunk;
    const int before = at >= kChunk ? ids[at - kChunk] : -1;
    const int after = beyond < n ? ids[beyond] : -1;
    if (at < n) {
      id = ids[at];
      order = occurrences[at];
    }
    if (beyond < n) order_beyond = occurrences[beyond];
    stop = static_cast<int>(Min<int64_t>(kChunk, n - begin));
    first = __shfl_sync(kFullMask, id, 0);
    last = __shfl_sync(kFullMask, id, stop - 1);
    const int ahead = Count(id == first), inside = Count(id == last);
    const int earlier = Count(before == first), later = Count(after == last);
    if (earlier > 0) {
      runs_in = earlier + ahead > kChunk;
      if (!runs_in) start = ahead;
    }
    if (later > 0 && (first != last || earlier == 0)) {
      runs_out = inside + later > kChunk;
      if (!runs_out) stop += later;
    }
    const int below = __shfl_down_sync(kFullMask, id, 1), next = __shfl_sync(kFullMask, after, 0);
    const bool ends_here = id != (lane + 1 < kWarpSize ? below : next) || lane + 1 == stop;
    ends = __ballot_sync(kFullMask, ends_here && lane >= start && lane < stop);
    if (stop > kChunk) ends |= uint64_t{1} << (stop - 1);
    ends >>= start;
  }

  __device__ __forceinline__ int KindOf(int key) const {
    return runs_in && key == first ? 1 : runs_out && key == last ? 2 : 0;
  }

 private:
  __device__ __forceinline__ static int Count(bool yes) {
    return __popc(__ballot_sync(kFullMask, yes));
  }
};

// Where things are in the rows of one table.
struct Layout {
  int table = -1;
  int dim = 0, state_offset = 0, state_len = 0, step_offset = 0;

  __device__ __forceinline__ void Of(const RowSource& rows, int of) {
    if (of == table) return;
    const RowInfo& info = rows.infos[of];
    table = of;
    dim = static_cast<int>(info.dim);
    state_offset = static_cast<int>(info.state_offset);
    state_len = static_cast<int>(info.state_len);
    step_offset = static_cast<int>(info.step_offset);
  }
};

// What a warp knows of its occurrences.
template <class Type, int kOptimizer>
struct QuickWork {
  static constexpr bool kAdam = kOptimizer == static_cast<int>(Optimizer::kAdam);
  struct alignas(16) Step {
    const char* grad;
    float scale;
    int dim;  // 0: there is no occurrence
  };
  struct alignas(16) Key {
    char* row;  // null: missing, or not updated here
    int id;
    unsigned tail;  // 4 * table, and for spans + 1 (in) or + 2 (out)
  };
  Group<float> sum[kBatch][kWarpSize];
  Step step[kMostOccurrences];
  Key key[kMostOccurrences];
  RowCopy<Type, kAdam> row[kOptimizer < 0 ? 1 : kAhead];

  __device__ __forceinline__ void Fill(const ReduceParams<Type>& p, const Window& window) {
    const int lane = Team::lane(), count = window.stop - window.start;
    if (count + lane < kMostOccurrences && lane < kBatch) step[count + lane] = {nullptr, 0, 0};
    if (lane >= window.start && lane < window.stop) {
      Put(p, window, lane, window.id, window.order);
    }
    if (kChunk + lane < window.stop) {
      Put(p, window, kChunk + lane, window.last, window.order_beyond);
    }
    __syncwarp();
  }

  // Sends for the row of the first key of `ends`, which is not one of them then.
  __device__ __forceinline__ void SendRow(const ReduceParams<Type>& p, uint64_t& ends, int slot,
                                          Layout& layout) {
    if (ends != 0) {
      const Key& of = key[__ffsll(static_cast<long long>(ends)) - 1];
      ends &= ends - 1;
      if (of.row != nullptr) {
        layout.Of(p.finish.source, static_cast<int>(of.tail / 4));
        row[slot].Send(layout, of.row);
      }
    }
    __pipeline_commit();
  }

  // Sends for the gradients from occurrence `first` on.
  __device__ __forceinline__ void Send(const ReduceParams<Type>& p, int first, uint4* x) const {
    const int lane = Team::lane();
    const GradSource<Type>& source = p.source;
    const DType dtype = source.bags.out_dtype;
    if (!source.whole || dtype == DType::kDouble) {
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const Step& one = step[first + k];
        if (lane * 4 >= one.dim) continue;
        LoadAny(dtype, one.grad, lane * 4, one.dim - lane * 4, source.whole,
                reinterpret_cast<float*>(x + k));
      }
    } else if (dtype == DType::kFloat) {
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const Step one = step[first + k];
        if (lane * 4 < one.dim) x[k] = __ldg(reinterpret_cast<const uint4*>(one.grad) + lane);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const Step one = step[first + k];
        if (lane * 4 >= one.dim) continue;
        const uint2 half = __ldg(reinterpret_cast<const uint2*>(one.grad) + lane);
        x[k].x = half.x;
        x[k].y = half.y;
      }
    }
  }

  // Adds the gradients that Send has brought. Sums of keys that end lie in `sum` then.
  __device__ __forceinline__ void Add(const ReduceParams<Type>& p, int first, unsigned ends,
                                      float clip, const uint4* x, float* now) {
    const DType dtype = p.source.bags.out_dtype;
    if (!p.source.whole || dtype == DType::kFloat || dtype == DType::kDouble) {
      return AddAs<Float>(first, ends, clip, x, now);
    }
    if (dtype == DType::kHalf) return AddAs<Half>(first, ends, clip, x, now);
    AddAs<BFloat16>(first, ends, clip, x, now);
  }

 private:
  __device__ __forceinline__ void Put(const ReduceParams<Type>& p, const Window& window, int at,
                                      int id, int32_t occurrence) {
    const RowSource& rows = p.finish.source;
    const auto place = p.source.PlaceOf(occurrence);
    const auto table = static_cast<int>(SegmentOf(rows.row_offsets, rows.tables, id));
    const int kind = window.KindOf(id), s = at - window.start;
    const int64_t bytes = place.at * BytesOf(p.source.bags.out_dtype);
    const int64_t row = kind == 0 && p.finish.sums == nullptr ? rows.rows[id] : 0;
    step[s] = {static_cast<const char*>(p.source.grads) + bytes, place.scale,
               static_cast<int>(rows.infos[table].dim)};
    key[s] = {reinterpret_cast<char*>(row), id, static_cast<unsigned>(table * 4 + kind)};
  }

  __device__ __forceinline__ static int BytesOf(DType dtype) {
    return dtype == DType::kDouble ? 8 : dtype == DType::kFloat ? 4 : 2;
  }

  template <class Grad>
  __device__ __forceinline__ void AddAs(int first, unsigned ends, float clip, const uint4* x,
                                        float* now) {
    if (clip > 0) {
      AddClipped<Grad, true>(first, ends, clip, x, now);
    } else {
      AddClipped<Grad, false>(first, ends, clip, x, now);
    }
  }

  // A lane beyond the end of a row adds what it finds: nobody reads its sums.
  template <class Grad, bool kClips>
  __device__ __forceinline__ void AddClipped(int first, unsigned ends, float clip, const uint4* x,
                                             float* now) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      float value[4];
      LoadRow(Grad{}, x + k, 0, value);
      const float scale = step[first + k].scale;
      for (int j = 0; j < 4; ++j) {
        if (kClips) value[j] = Max(-clip, Min(clip, value[j]));
        now[j] += scale * value[j];
      }
      if ((ends >> k & 1) == 0) continue;
      sum[k][Team::lane()] = {now[0], now[1], now[2], now[3]};
      for (int j = 0; j < 4; ++j) now[j] = 0;
    }
  }
};

// kOptimizer: that of the call, or -1: any, and sums.
template <class Type, int kOptimizer>
__global__ void __launch_bounds__(kQuickBlock, QuickBlocks(kOptimizer))
    QuickReduceKernel(const __grid_constant__ ReduceParams<Type> p) {
  using Work = QuickWork<Type, kOptimizer>;
  __shared__ Work works[kQuickWarps];
  __shared__ Numbers<float> numbers;
  const int64_t chunk = blockIdx.x * int64_t{kQuickWarps} + threadIdx.x / kWarpSize;
  const int lane = Team::lane();
  Work& work = works[threadIdx.x / kWarpSize];
  LoadNumbers(numbers, p.hyper);
  Window window;
  if (chunk * kChunk < p.n) {
    window.Load(p.ids, p.order, p.n, chunk * kChunk);
    work.Fill(p, window);
    if (window.runs_out && lane == 0) {
      p.spans[atomicAdd(p.span_count, 1)] = static_cast<int>(chunk);
    }
  }
  __syncthreads();
  const int count = window.stop - window.start;
  if (count <= 0) return;
  Layout layout;
  uint4 x[kBatch] = {};
  float now[4] = {0, 0, 0, 0};
  work.Send(p, 0, x);
  uint64_t unsent = window.ends;
  int slot = 0;
  if constexpr (kOptimizer >= 0) {
#pragma unroll 1
    for (int k = 0; k < kAhead; ++k) work.SendRow(p, unsent, k, layout);
  }
#pragma unroll 1
  for (int first = 0; first < count; first += kBatch) {
    const auto ends = static_cast<unsigned>(window.ends) & ((1u << kBatch) - 1);
    window.ends >>= kBatch;
    work.Add(p, first, ends, numbers.clip, x, now);
    if (first + kBatch < count) work.Send(p, first + kBatch, x);
#pragma unroll 1
    for (unsigned left = ends; left != 0; left &= left - 1) {
      const int k = __ffs(static_cast<int>(left)) - 1;
      const auto key = work.key[first + k];
      const auto kind = static_cast<int>(key.tail % 4);
      Held<float, 1> sum;
      *reinterpret_cast<Group<float>*>(sum.value[0]) = work.sum[k][lane];
      layout.Of(p.finish.source, static_cast<int>(key.tail / 4));
      if (kind != 0) {
        float* const to = p.partial + (chunk * 2 + kind - 1) * p.partial_stride;
        if (lane * 4 < layout.dim) reinterpret_cast<Group<float>*>(to)[lane] = work.sum[k][lane];
      }
      if constexpr (kOptimizer >= 0) {
        __pipeline_wait_prior(kAhead - 1);
        if (key.row != nullptr) {
          UpdateQuickly(numbers, p.finish.update, layout, work.row[slot], key.row,
                        p.finish.source.keys + key.id, sum.value[0]);
        }
        work.SendRow(p, unsent, slot, layout);
        slot = slot + 1 == kAhead ? 0 : slot + 1;
      } else if (kind == 0) {
        p.finish(numbers, key.id, p.finish.source.infos[layout.table], sum);
      }
    }
  }
}

}  // namespace accel::dynamicemb
