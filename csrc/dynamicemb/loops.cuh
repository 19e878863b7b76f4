// File: loops.cuh
//
// A loop over a batch, written once: on the GPU a thread (or a warp) takes each index, on the host
// a few threads share them. A body is a struct with a const operator() for host and device.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#include "csrc/common/portable.h"
#include "csrc/dynamicemb/dynamicemb.h"

namespace accel::dynamicemb {

// The lanes that do one index together: a warp on the GPU, one thread on the host.
struct Team {
#if defined(__CUDA_ARCH__)
  static constexpr int kLanes = 32;
  __device__ static int lane() { return threadIdx.x % 32; }
  template <class T>
  __device__ static T Sum(T x) {
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffff, x, d);
    return x;
  }
#else
  static constexpr int kLanes = 1;
  ACCEL_HD static int lane() { return 0; }
  template <class T>
  ACCEL_HD static T Sum(T x) {
    return x;
  }
#endif
};

constexpr int kBlock = 256;
constexpr int kWarps = kBlock / 32;
constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;

template <class Body>
__global__ void __launch_bounds__(kBlock) EachKernel(int64_t n, Body body) {
  const int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x;
  if (i < n) body(i);
}

template <class Body>
__global__ void __launch_bounds__(kBlock) TeamKernel(int64_t n, Body body) {
  const int64_t i = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (i < n) body(i);
}

// work(begin, end) for parts of [0, n) on as many host threads as are worth it.
template <class Work>
void Share(int threads, int64_t n, int64_t least, const Work& work) {
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, n / least));
  std::vector<std::thread> others;
  int64_t begun = 1;
  for (; begun < parts; ++begun) {
    try {
      others.emplace_back(
          [&work, n, parts, begun] { work(n * begun / parts, n * (begun + 1) / parts); });
    } catch (const std::system_error&) {
      break;  // the machine gives no more threads
    }
  }
  work(0, n / parts);
  for (int64_t rest = begun; rest < parts; ++rest) work(n * rest / parts, n * (rest + 1) / parts);
  for (std::thread& thread : others) thread.join();
}

template <class Body>
void HostEach(int threads, int64_t n, int64_t least, const Body& body) {
  Share(threads, n, least, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

template <class Body>
int Each(const Where& where, int64_t n, const Body& body) {
  if (n == 0) return cudaSuccess;
  if (!where.cuda) {
    HostEach(where.threads, n, 1 << 14, body);
    return cudaSuccess;
  }
  EachKernel<<<static_cast<unsigned>(CeilDiv<int64_t>(n, kBlock)), kBlock, 0,
               static_cast<cudaStream_t>(where.stream)>>>(n, body);
  return cudaGetLastError();
}

// The same with a Team for each index.
template <class Body>
int EachTeam(const Where& where, int64_t n, const Body& body) {
  if (n == 0) return cudaSuccess;
  if (!where.cuda) {
    HostEach(where.threads, n, 1 << 10, body);
    return cudaSuccess;
  }
  TeamKernel<<<static_cast<unsigned>(CeilDiv<int64_t>(n, kWarps)), kBlock, 0,
               static_cast<cudaStream_t>(where.stream)>>>(n, body);
  return cudaGetLastError();
}

// The segment of i among offsets (segments + 1), empty ones skipped.
ACCEL_HD int64_t SegmentOf(const int64_t* offsets, int64_t segments, int64_t i) {
  int64_t low = 0, high = segments - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (offsets[middle + 1] <= i) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace accel::dynamicemb
