// File: header_types.cu
//
// The values and scores that the header has beyond those of the wheel: what is put in comes out,
// sums are those of the type, for batches of one kernel and of passes.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "csrc/hkv/hash_table.cuh"

ACCEL_PACKAGE("hkv");

namespace program {

constexpr uint32_t kDim = 5;  // rows of no 16 bytes
constexpr size_t kKeys = 3000;

int failures = 0;
void Expect(bool right, const char* type, const char* what) {
  if (right) return;
  std::printf("%s: %s: WRONG\n", type, what);
  ++failures;
}

template <class T>
class Array {
 public:
  explicit Array(size_t n, T value = 0) : Array(std::vector<T>(n, value)) {}
  explicit Array(std::vector<T> host) : host_(std::move(host)) {
    accel::CheckCuda(cudaMalloc(&device_, host_.size() * sizeof(T)), "cudaMalloc");
    accel::CheckCuda(
        cudaMemcpy(device_, host_.data(), host_.size() * sizeof(T), cudaMemcpyHostToDevice),
        "copying");
  }
  ~Array() { cudaFree(device_); }
  T* device() const { return device_; }
  const std::vector<T>& Read() {
    accel::CheckCuda(
        cudaMemcpy(host_.data(), device_, host_.size() * sizeof(T), cudaMemcpyDeviceToHost),
        "copying");
    return host_;
  }
  const std::vector<T>& Get() const { return host_; }  // what was read

 private:
  std::vector<T> host_;
  T* device_ = nullptr;
};

std::vector<uint64_t> Keys(uint64_t from) {
  std::vector<uint64_t> keys(kKeys);
  for (size_t i = 0; i < kKeys; ++i) keys[i] = from + i * 31;
  return keys;
}

// Numbers that are whole in every type.
template <class Value>
std::vector<Value> Rows(int seed) {
  std::vector<Value> rows(kKeys * kDim);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<Value>((i * 7 + seed) % 50);
  return rows;
}

template <class Value>
void TestValues(const char* type, uint64_t passes_from) {
  hkv::HashTableOptions options;
  options.init_capacity = 1000;
  options.max_capacity = 20000;
  options.dim = kDim;
  options.passes_from = passes_from;
  hkv::HashTable<int64_t, Value> table(options);
  Array<uint64_t> keys(Keys(1));
  Array<Value> rows(Rows<Value>(3)), out(kKeys * kDim);
  table.insert_or_assign(kKeys, keys.device(), rows.device(), nullptr, false, nullptr, nullptr);
  table.find(kKeys, keys.device(), out.device(), nullptr, nullptr, nullptr);
  Expect(out.Read() == Rows<Value>(3), type, "find gives what insert_or_assign put");
  Expect(table.size(nullptr) == kKeys && table.capacity() > 1000, type, "it grew");

  Array<char> adds(kKeys, 1);
  table.accum_or_assign(kKeys, keys.device(), rows.device(), reinterpret_cast<bool*>(adds.device()),
                        nullptr, nullptr, nullptr);
  table.find(kKeys, keys.device(), out.device(), nullptr, nullptr, nullptr);
  const std::vector<Value> given = Rows<Value>(3), sums = out.Read();
  bool right = true;
  for (size_t i = 0; i < given.size(); ++i) {
    right = right && sums[i] == static_cast<Value>(2 * given[i]);
  }
  Expect(right, type, "accum_or_assign adds");

  // One key thousands of times: every delta counts; integers wrap around.
  Array<uint64_t> same(kKeys, 1);
  Array<Value> ones(kKeys * kDim, 1);
  table.accum_or_assign(kKeys, same.device(), ones.device(), reinterpret_cast<bool*>(adds.device()),
                        nullptr, nullptr, nullptr);
  table.find(1, same.device(), out.device(), nullptr, nullptr, nullptr);
  out.Read();
  right = true;
  for (uint32_t d = 0; d < kDim; ++d) {
    right = right && out.Get()[d] == static_cast<Value>(static_cast<int>(2 * given[d]) +
                                                        static_cast<int>(kKeys));
  }
  Expect(right, type, "deltas of equal keys add up");
}

void TestScores(uint64_t passes_from) {
  using Table = hkv::HashTable<uint64_t, float, uint32_t, hkv::EvictStrategy::kCustomized>;
  hkv::HashTableOptions options;
  options.max_capacity = kKeys / 2;
  options.dim = kDim;
  options.passes_from = passes_from;
  Table table(options);
  Array<uint64_t> keys(Keys(1)), gone(kKeys), count(1);
  std::vector<uint32_t> given(kKeys);
  for (size_t i = 0; i < kKeys; ++i) given[i] = 4000000000u + static_cast<uint32_t>(i);
  Array<uint32_t> scores(given), gone_scores(kKeys, 7), out(kKeys, 9);
  Array<float> rows(Rows<float>(1)), gone_rows(kKeys * kDim);
  Array<char> founds(kKeys);
  table.insert_and_evict(kKeys, keys.device(), rows.device(), scores.device(), gone.device(),
                         gone_rows.device(), gone_scores.device(), count.device(), false, nullptr,
                         nullptr);
  table.find(kKeys, keys.device(), nullptr, reinterpret_cast<bool*>(founds.device()), out.device(),
             nullptr);
  const uint64_t left = count.Read()[0];
  Expect(left + table.size(nullptr) == kKeys, "uint32 scores", "what is not there has left");
  const std::vector<char>& found = founds.Read();
  const std::vector<uint32_t>& got = out.Read();
  bool right = true;
  for (size_t i = 0; i < kKeys; ++i) right = right && got[i] == (found[i] != 0 ? given[i] : 9u);
  Expect(right, "uint32 scores", "find gives the scores of present keys");
  const std::vector<uint64_t>& gone_keys = gone.Read();
  const std::vector<uint32_t>& listed = gone_scores.Read();
  right = left > 0;
  for (uint64_t e = 0; e < left; ++e) {
    right = right && listed[e] == 4000000000u + (gone_keys[e] - 1) / 31;
  }
  Expect(right, "uint32 scores", "insert_and_evict lists those that left");
}

}  // namespace program

int main() {
  try {
    for (const uint64_t passes_from : {uint64_t{1} << 40, uint64_t{1}}) {
      program::TestValues<int8_t>("int8", passes_from);
      program::TestValues<uint8_t>("uint8", passes_from);
      program::TestValues<int32_t>("int32", passes_from);
      program::TestValues<double>("float64", passes_from);
      program::TestScores(passes_from);
    }
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  if (program::failures == 0) {
    std::printf("values int8, uint8, int32, float64 and scores uint32: right\n");
  }
  return program::failures == 0 ? 0 : 1;
}
