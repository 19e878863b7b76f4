// File: launches.cc
//
// launches: forward and backward of three types and both layouts by hip_launcher.cc, compared with
// the reference. Says "right", or what went wrong. With --where: whether this process has a PyTorch
// for ROCm, before and after the library named next is loaded.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "csrc/causal_conv1d/hip_launcher.h"
#include "csrc/common/errors.h"
#include "tests/causal_conv1d/on_host/call.h"

ACCEL_PACKAGE("causal_conv1d");

namespace conv1d_test {

namespace conv1d = accel::conv1d;

// Through the launcher, on a stream that is none.
void Start(const std::string& name, int64_t blocks, const void* args, size_t args_bytes,
           const accel::HostMachine&) {
  for (int i = 0; i < conv1d::kEntryCount; ++i) {
    const conv1d::Entry& entry = conv1d::kEntries[i];
    if (name != entry.name) continue;
    if (static_cast<size_t>(entry.args_bytes) != args_bytes) throw std::runtime_error(name);
    return conv1d::LaunchHip(entry, blocks, args, reinterpret_cast<void*>(0x5eed));
  }
  throw std::runtime_error("there is no kernel " + name);
}

template <class T>
static void CheckLayouts() {
  for (Layout layout : {Layout::kFirst, Layout::kLast}) {
    for (int width : {4, 5}) {
      Case c{};
      c.layout = layout, c.width = width, c.batch = 2, c.channels = 9, c.tokens = 70;
      c.bias = c.silu = c.initial = c.last = true;
      c.seed = static_cast<uint64_t>(width);
      CheckForward<T, float>(c);
      CheckBackward<T, float>(c);
    }
  }
}

}  // namespace conv1d_test

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--where") == 0) {
    if (argc > 2 && dlopen(argv[2], RTLD_NOW) == nullptr) return 1;
    std::puts(accel::conv1d::OnHip() ? "ROCm" : "not ROCm");
    return 0;
  }
  try {
    if (argc > 1 && std::strcmp(argv[1], "--many-blocks") == 0) {
      accel::conv1d::LaunchHip(accel::conv1d::kEntries[0], int64_t{1} << 30, nullptr, nullptr);
    }
    conv1d_test::CheckLayouts<float>();
    conv1d_test::CheckLayouts<accel::Half>();
    conv1d_test::CheckLayouts<accel::BFloat16>();
    if (accel::conv1d::HipProcessors() != 304) throw std::runtime_error("processors");
  } catch (const std::exception& error) {
    std::puts(error.what());
    return 1;
  }
  std::puts("right");
  return 0;
}
