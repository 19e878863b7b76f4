// File: lookup_in_kernel.cu
//
// Kernels of a program's own that look keys up, and whole-table calls with conditions on values:
//
//   nvcc -std=c++17 -arch=sm_80 -I. examples/hkv_cpp/lookup_in_kernel.cu -o lookup && ./lookup
#include <cstdint>
#include <cstdio>
#include <vector>

#include "csrc/hkv/hash_table.cuh"

ACCEL_PACKAGE("lookup_in_kernel");

constexpr uint32_t kDim = 8;
constexpr int kBag = 5;  // ids that are summed

// out[b] = the sum of the rows of bag b's ids; ids that the table has not count nothing. A thread a
// bag; the score of a bag's last known id goes to scores[b].
__global__ void PoolKernel(hkv::DeviceTable<int64_t, const float> table, int bags,
                           const int64_t* ids, float* out, uint64_t* scores) {
  const int b = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (b >= bags) return;
  float sum[kDim] = {};
  for (int i = 0; i < kBag; ++i) {
    const float* row = table.find(ids[b * kBag + i], &scores[b]);
    if (row == nullptr) continue;
    for (uint32_t d = 0; d < kDim; ++d) sum[d] += row[d];
  }
  for (uint32_t d = 0; d < kDim; ++d) out[b * kDim + d] = sum[d];
}

// Rows whose first value is below a bound.
struct Below {
  float bound;
  __device__ bool operator()(int64_t, const float* row, uint64_t) const { return row[0] < bound; }
};

// Halves rows and gives keys their own number as the score.
struct Halve {
  uint32_t dim;
  __device__ void operator()(int64_t key, float* row, uint64_t* score) const {
    for (uint32_t d = 0; d < dim; ++d) row[d] /= 2;
    *score = static_cast<uint64_t>(key);
  }
};

namespace program {

// Unified memory keeps the example short.
template <class T>
T* Shared(size_t n) {
  T* memory = nullptr;
  accel::CheckCuda(cudaMallocManaged(&memory, n * sizeof(T)), "cudaMallocManaged");
  return memory;
}

bool failed = false;
void Expect(bool right, const char* what) {
  std::printf("%s: %s\n", what, right ? "right" : "WRONG");
  failed = failed || !right;
}

void Run() {
  using Table = hkv::HashTable<int64_t, float, uint64_t, hkv::EvictStrategy::kCustomized>;
  hkv::HashTableOptions options;
  options.max_capacity = 4000;
  options.dim = kDim;
  Table table(options);

  const int n = 2000, bags = 600;
  auto* const keys = Shared<uint64_t>(n);
  auto* const scores = Shared<uint64_t>(n);
  auto* const rows = Shared<float>(n * kDim);
  for (int i = 0; i < n; ++i) {
    keys[i] = i;
    scores[i] = 10 + i;
    for (uint32_t d = 0; d < kDim; ++d) rows[i * kDim + d] = static_cast<float>(i);
  }
  table.insert_or_assign(n, keys, rows, scores, false, nullptr, nullptr);

  auto* const ids = Shared<int64_t>(bags * kBag);
  auto* const pooled = Shared<float>(bags * kDim);
  auto* const last = Shared<uint64_t>(bags);
  for (int i = 0; i < bags * kBag; ++i) ids[i] = i;  // those from n on are absent
  table.launch(nullptr, [&](hkv::DeviceTable<int64_t, const float> device_table) {
    PoolKernel<<<(bags + 127) / 128, 128>>>(device_table, bags, ids, pooled, last);
  });
  table.synchronize(nullptr);
  bool right = true;
  for (int b = 0; b < bags; ++b) {
    float sum = 0;
    for (int i = b * kBag; i < (b + 1) * kBag && i < n; ++i) sum += static_cast<float>(i);
    for (uint32_t d = 0; d < kDim; ++d) right = right && pooled[b * kDim + d] == sum;
    if ((b + 1) * kBag <= n) right = right && last[b] == 10u + (b + 1) * kBag - 1;
  }
  Expect(right, "sums of rows that a kernel found");

  Expect(table.size_if(Below{500}, nullptr) == 500, "size_if by a value");
  auto* const count = Shared<uint64_t>(1);
  auto* const out_keys = Shared<uint64_t>(options.max_capacity);
  auto* const out_rows = Shared<float>(options.max_capacity * kDim);
  table.export_batch_if(Below{300}, table.capacity(), 0, count, out_keys, out_rows, nullptr,
                        nullptr);
  table.synchronize(nullptr);
  right = *count == 300;
  for (uint64_t i = 0; i < *count; ++i) {
    right = right && out_keys[i] < 300 && out_rows[i * kDim] == static_cast<float>(out_keys[i]);
  }
  Expect(right, "export_batch_if by a value");
  Expect(table.erase_if(Below{100}, nullptr) == 100 && table.size(nullptr) == n - 100,
         "erase_if by a value");

  table.for_each(Halve{kDim}, table.capacity(), 0, nullptr);
  table.find(n, keys, rows, nullptr, scores, nullptr);
  table.synchronize(nullptr);
  right = true;
  for (int i = 100; i < n; ++i) {
    right = right && rows[i * kDim + 3] == static_cast<float>(i) / 2 &&
            scores[i] == static_cast<uint64_t>(i);
  }
  Expect(right, "for_each changes rows and scores");
}

}  // namespace program

int main() {
  try {
    program::Run();
    return program::failed ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
