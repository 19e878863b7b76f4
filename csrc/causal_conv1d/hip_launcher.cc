// File: hip_launcher.cc
//
// The seven functions of HIP's runtime that a launch needs, as HIP 6 and 7 have them.
#include "csrc/causal_conv1d/hip_launcher.h"

#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "csrc/common/errors.h"
#include "csrc/common/hip_units.h"

extern "C" const accel::HipUnit hip_objects_units[];

namespace accel::conv1d {
namespace {

constexpr const char* kRuntimes[] = {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"};

// hipDeviceProp_tR0600 up to and with gcnArchName, e.g. "gfx942:sramecc+:xnack-".
struct Properties {
  char before[1160];
  char arch[256];
  char after[4096];  // 56 bytes in HIP 6 and 7; room for more
};

class Runtime {
 public:
  static Runtime& Get() {
    static Runtime runtime;
    return runtime;
  }

  void Launch(const Entry& entry, int64_t blocks, const void* args, void* stream) {
    // HIP counts threads, not blocks, in 32 bits.
    Check(blocks * entry.threads <= INT64_C(0xffffffff), entry.name, " would need ", blocks,
          " blocks of ", entry.threads, " threads, more than an AMD GPU starts at once");
    void* params[] = {const_cast<void*>(args)};
    void* const function = Function(entry);
    Do("hipModuleLaunchKernel", entry.name,
       launch_(function, static_cast<unsigned>(blocks), 1, 1, static_cast<unsigned>(entry.threads),
               1, 1, 0, stream, params, nullptr));
  }

  int Processors() {
    constexpr int kMultiprocessorCount = 63;
    int count = 0;
    Do("hipDeviceGetAttribute", "", attribute_(&count, kMultiprocessorCount, Device()));
    return count;
  }

 private:
  Runtime() {
    // The one that PyTorch brought, before any other.
    for (int flags : {RTLD_LAZY | RTLD_NOLOAD, RTLD_LAZY}) {
      for (const char* name : kRuntimes) {
        if (library_ == nullptr) library_ = dlopen(name, flags);
      }
    }
    if (library_ == nullptr) {
      Fail("an AMD GPU needs ROCm's runtime, and none of libamdhip64.so, .so.7, .so.6 is found: ",
           "install it, or name its folder in LD_LIBRARY_PATH");
    }
    Find("hipGetDevice", &device_);
    Find("hipGetDevicePropertiesR0600", &properties_);
    Find("hipDeviceGetAttribute", &attribute_);
    Find("hipModuleLoadData", &load_);
    Find("hipModuleGetFunction", &function_);
    Find("hipModuleLaunchKernel", &launch_);
    Find("hipGetErrorString", &error_);
  }

  template <class Function>
  void Find(const char* name, Function** to) {
    *to = reinterpret_cast<Function*>(dlsym(library_, name));
    Check(*to != nullptr, "ROCm's runtime has no ", name, ": HIP 6 or newer is needed");
  }

  void Do(const char* call, const char* what, int code) {
    if (code == 0) return;
    Fail(call, *what ? " of " : "", what, " failed: ", error_(code), " (hipError_t ", code, ")");
  }

  int Device() {
    int device = 0;
    Do("hipGetDevice", "", device_(&device));
    return device;
  }

  void* Function(const Entry& entry) {
    const int device = Device();
    const std::lock_guard<std::mutex> lock(mutex_);
    void*& function = functions_[{device, entry.name}];
    if (function == nullptr) {
      void* found = nullptr;
      Do("hipModuleGetFunction", entry.name,
         function_(&found, Module(device, UnitOf(entry.name)), entry.name));
      function = found;
    }
    return function;
  }

  static std::string UnitOf(const std::string& name) {
    const HipKernel* kernel = kHipKernels;
    while (kernel->name != nullptr && kernel->name != name) ++kernel;
    Check(kernel->name != nullptr, "this build has no kernel ", name, " for AMD GPUs");
    return kernel->unit;
  }

  // A source's kernels, loaded when the first of them is started.
  void* Module(int device, const std::string& unit) {
    void*& module = modules_[{device, unit}];
    if (module == nullptr) {
      void* loaded = nullptr;
      Do("hipModuleLoadData", unit.c_str(), load_(&loaded, Object(device, unit)));
      module = loaded;
    }
    return module;
  }

  const unsigned char* Object(int device, const std::string& unit) {
    Properties properties{};
    Do("hipGetDevicePropertiesR0600", "", properties_(&properties, device));
    properties.after[0] = 0;  // a name that fills its place ends here
    std::string gpu = properties.arch;
    gpu.resize(std::min(gpu.find(':'), gpu.size()));
    for (const HipUnit* u = hip_objects_units; u->name != nullptr; ++u) {
      if (u->name != unit) continue;
      std::string built;
      for (const HipObject& object : HipObjects(u->bundle)) {
        if (object.gpu == gpu) return object.data;
        built += (built.empty() ? "" : ", ") + object.gpu;
      }
      Fail("this GPU is ", gpu, ", and this build has code for ", built.empty() ? "none" : built,
           ": build it with --//tools/hip:archs=", gpu);
    }
    Fail("this build has no unit ", unit);
  }

  void* library_ = nullptr;
  int (*device_)(int*);
  int (*properties_)(void*, int);
  int (*attribute_)(int*, int, int);
  int (*load_)(void**, const void*);
  int (*function_)(void**, void*, const char*);
  int (*launch_)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                 void**, void**);
  const char* (*error_)(int);
  std::mutex mutex_;
  std::map<std::pair<int, std::string>, void*> modules_, functions_;
};

}  // namespace

bool OnHip() {
  static const bool there = dlopen("libtorch_hip.so", RTLD_LAZY | RTLD_NOLOAD) != nullptr;
  return there;
}

void LaunchHip(const Entry& entry, int64_t blocks, const void* args, void* stream) {
  Runtime::Get().Launch(entry, blocks, args, stream);
}

int HipProcessors() { return Runtime::Get().Processors(); }

}  // namespace accel::conv1d
