#include "csrc/hstu_triton/launch_ops.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "csrc/common/device.h"
#include "csrc/common/device_ops.h"
#include "csrc/common/errors.h"
#include "csrc/common/tensor_checks.h"

namespace accel::triton {
namespace {

void CheckCall(cudaError_t error, const char* what, const Object& object) {
  Check(error == cudaSuccess, what, " ", object.name, " failed with ", CudaError{error});
}

struct Table {
  std::unordered_map<std::string_view, const Object*> by_name[3];  // for 8.x, 9.x, others

  Table() {
    for (uint64_t i = 0; i < hstu_triton_object_count; ++i) {
      const Object& object = hstu_triton_objects[i];
      by_name[object.arch == 80 ? 0 : object.arch == 90 ? 1 : 2].emplace(object.name, &object);
    }
  }
};

const Table& Objects() {
  static const Table table;
  return table;
}

// The compute capability of a GPU, asked once.
int MajorOf(int device) {
  static std::atomic<int> known[kMaxDevices];
  int major = device < kMaxDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (major != 0) return major;
  const cudaError_t e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  Check(e == cudaSuccess, "the GPU does not answer: ", CudaError{e});
  if (device < kMaxDevices) known[device].store(major, std::memory_order_relaxed);
  return major;
}

// Which of the three maps serves the GPU of a tensor.
int FamilyOf(const Tensor& beside) {
  if (!beside.is_cuda()) return 1;
  const int major = MajorOf(beside.get_device_index());
  Check(major >= 8, "TRITON_CC needs compute capability 8.0 or newer, this GPU has ", major, ".x");
  return major == 8 ? 0 : major == 9 ? 1 : 2;
}

// Whether a tensor lies on a GPU that is not the current one.
bool Elsewhere(const Tensor& beside) {
  int current = -1;
  return beside.is_cuda() &&
         (cudaGetDevice(&current) != cudaSuccess || current != beside.get_device_index());
}

// The names of the same kernel and dtype, for an error.
std::string Nearest(const std::string& name, int family) {
  const auto head_of = [](std::string_view text) {
    const size_t first = text.find('.');
    return text.substr(0, text.find('.', first + 1));
  };
  std::vector<std::string_view> near;
  for (const auto& [other, object] : Objects().by_name[family]) {
    if (head_of(other) == head_of(name)) near.push_back(other);
  }
  std::sort(near.begin(), near.end());
  const auto number = [](std::string_view text) {
    const size_t digit = text.find_first_of("0123456789", text.find('.', text.find('.') + 1));
    return digit == std::string_view::npos ? 0L
                                           : std::atol(std::string(text.substr(digit)).c_str());
  };
  const long wanted = number(name);
  std::stable_sort(near.begin(), near.end(), [&](auto a, auto b) {
    return std::labs(number(a) - wanted) < std::labs(number(b) - wanted);
  });
  std::string list;
  for (size_t i = 0; i < std::min<size_t>(near.size(), 3); ++i) {
    list += (i > 0 ? ", " : "") + std::string(near[i]);
  }
  return list.empty() ? "none of this kernel" : list;
}

// The loaded kernels of one process. A library of the runtime is loaded on every device, so one
// load serves all of them; what is kept for a device is that its shared memory has been raised.
class Loaded {
 public:
  cudaKernel_t Get(const Object& object, int device) {
    const size_t index = &object - hstu_triton_objects;
    Entry& entry = entries_[index];
    const uint64_t bit = uint64_t{1} << (device % 64);
    if ((entry.ready.load(std::memory_order_acquire) & bit) != 0) return entry.kernel;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (entry.kernel == nullptr) {
      cudaLibrary_t library = nullptr;
      CheckCall(
          cudaLibraryLoadData(&library, object.image, nullptr, nullptr, 0, nullptr, nullptr, 0),
          "loading", object);
      CheckCall(cudaLibraryGetKernel(&entry.kernel, library, object.function), "finding", object);
    }
    if (object.shared > 48 * 1024) {
      CheckCall(
          cudaKernelSetAttributeForDevice(entry.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          object.shared, device),
          "the shared memory of", object);
    }
    entry.ready.fetch_or(bit, std::memory_order_release);
    return entry.kernel;
  }

 private:
  struct Entry {
    std::atomic<uint64_t> ready{0};
    cudaKernel_t kernel = nullptr;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_ = std::vector<Entry>(hstu_triton_object_count);
};

Loaded& Kernels() {
  static Loaded loaded;
  return loaded;
}

}  // namespace

const Object& Find(const std::string& name, const Tensor& beside) {
  const int family = FamilyOf(beside);
  const auto& objects = Objects().by_name[family];
  const auto found = objects.find(name);
  if (found != objects.end()) return *found->second;
  Fail("TRITON_CC has no compiled kernel ", name, "; nearest: ", Nearest(name, family),
       ". TRITON compiles it at first use, which allow_jit permits");
}

const char* DtypeName(const Tensor& t, const char* argument) {
  if (t.scalar_type() == ScalarType::BFloat16) return "bf16";
  if (t.scalar_type() == ScalarType::Half) return "fp16";
  Fail(argument, " must be bfloat16 or float16 with TRITON_CC");
}

bool Has(const std::string& name, const Tensor& beside) {
  return Objects().by_name[FamilyOf(beside)].count(name) != 0;
}

Tensor WithoutGaps(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  const bool dense = t.numel() == 0 || t.size(last) == 1 || t.stride(last) == 1;
  if (dense && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0) return t;
  Tensor copy = Empty(t, t.sizes(), DtypeOf(t));
  torch::stable::copy_(copy, t);
  return copy;
}

std::string SizedName(const std::string& kernel, const char* dtype,
                      std::initializer_list<const Tensor*> tensors) {
  bool whole = true;
  for (const Tensor* t : tensors) {
    const int64_t last = t->dim() - 1;
    whole = whole && t->size(last) % 16 == 0;
    for (int64_t d = 0; d < last; ++d) {
      whole = whole && (t->size(d) <= 1 || t->stride(d) % 16 == 0);
    }
  }
  return kernel + "." + dtype + (whole ? ".whole" : ".any");
}

Launch::Launch(const std::string& name, const Tensor& beside)
    : beside_(beside),
      guard_(Elsewhere(beside) ? std::make_optional<torch::stable::accelerator::DeviceGuard>(
                                     beside.get_device_index())
                               : std::nullopt),
      object_(Find(name, beside)),
      next_(object_.parameters) {}

int64_t Launch::Constant(const char* name) const {
  const std::string wanted = std::string(name) + "=";
  const char* found = std::strstr(object_.constants, wanted.c_str());
  Check(found != nullptr, object_.name, " has no constant ", name);
  return std::atoll(found + wanted.size());
}

void* Launch::Slot(const char* name, char kind) {
  const char *wanted = next_, *given = name;
  while (*given != '\0' && *wanted == *given) ++wanted, ++given;
  const bool agrees =
      *given == '\0' && *wanted == ':' && (wanted[1] | 0x20) == kind && count_ < kMost - 2;
  Check(agrees, object_.name, " takes ", next_, "and not ", name, ":", kind);
  kind_ = wanted[1];
  next_ = wanted + 3;
  pointers_[count_] = &values_[count_];
  values_[count_] = 0;
  return &values_[count_++];
}

Launch& Launch::Pointer(const char* name, const Tensor& t) {
  const auto address = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  Check(address % 16 == 0 || !t.is_cuda(), name, " must begin at a multiple of 16 bytes");
  std::memcpy(Slot(name, 'p'), &address, sizeof(address));
  return *this;
}

Launch& Launch::Pointer(const char* name, const MaybeTensor& t, const Tensor& stand_in) {
  return Pointer(name, t ? *t : stand_in);
}

Launch& Launch::Int(const char* name, int64_t value) {
  const int32_t narrow = ToInt32(value, name);
  void* slot = Slot(name, 'i');
  Check(kind_ != 'I' || narrow % 16 == 0, object_.name, ": ", name,
        " must be a multiple of 16, got ", narrow);
  std::memcpy(slot, &narrow, sizeof(narrow));
  return *this;
}

Launch& Launch::Stride(const char* name, const Tensor& t, int64_t dim) {
  return Int(name, t.size(dim) > 1 ? t.stride(dim) : 0);
}

Launch& Launch::Float(const char* name, double value) {
  const auto single = static_cast<float>(value);
  std::memcpy(Slot(name, 'f'), &single, sizeof(single));
  return *this;
}

void Launch::Ready() const { Check(*next_ == '\0', object_.name, " also takes ", next_); }

void Launch::Run(int64_t x, int64_t y, int64_t z) {
  Ready();
  Check(x > 0 && x <= INT32_MAX && y > 0 && y <= 65535 && z > 0 && z <= 65535, object_.name,
        ": a grid of ", x, " x ", y, " x ", z, " blocks is too large");
  Check(beside_.is_cuda(), object_.name, " needs a GPU: the tensors are on the CPU; its grid: ", x,
        " x ", y, " x ", z);
  // Triton's kernels end with the addresses of two buffers that these do not use.
  for (int i = 0; i < 2; ++i) {
    values_[count_ + i] = 0;
    pointers_[count_ + i] = &values_[count_ + i];
  }
  const int device = beside_.get_device_index();
  const cudaKernel_t kernel = Kernels().Get(object_, device);
  const dim3 grid(static_cast<uint32_t>(x), static_cast<uint32_t>(y), static_cast<uint32_t>(z));
  const cudaError_t error = cudaLaunchKernel(
      static_cast<const void*>(kernel), grid, dim3(static_cast<uint32_t>(object_.threads)),
      pointers_, static_cast<size_t>(object_.shared), CurrentStream(device));
  CheckCall(error, "launching", object_);
}

}  // namespace accel::triton
