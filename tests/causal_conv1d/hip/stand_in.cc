// File: stand_in.cc
//
// A libamdhip64.so for tests: what hip_launcher.cc calls, of one device. It looks at code objects
// as the real one would before it loads them, checks every argument of a launch, and runs the
// kernel of that name on the host. Memory of the device is that of the process.
//
//   STAND_IN_GPU    gcnArchName of the device
//   STAND_IN_FAILS  the function that fails
//   STAND_IN_LOG    a file that gets a line for each launch
#include <elf.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/causal_conv1d/on_host/kernels.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kInvalidValue = 1, kInvalidImage = 200, kNoBinaryForGpu = 209, kNotFound = 500;
constexpr int kMachineAmdGpu = 224;

struct Module {
  const unsigned char* image;
};

struct Function {
  const conv1d_test::HostKernel* kernel;
};

std::string Variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

std::string GpuName() { return Variable("STAND_IN_GPU", "gfx942:sramecc+:xnack-"); }
std::string Gpu() { return GpuName().substr(0, GpuName().find(':')); }
bool Fails(const char* call) { return Variable("STAND_IN_FAILS", "") == call; }

// The lowest byte of e_flags.
unsigned MachineOf(const std::string& gpu) {
  const std::map<std::string, unsigned> known = {
      {"gfx90a", 0x3f}, {"gfx942", 0x4c}, {"gfx1100", 0x41}, {"gfx1201", 0x4e}};
  const auto found = known.find(gpu);
  return found == known.end() ? 0 : found->second;
}

bool HasSymbol(const unsigned char* image, const std::string& name) {
  Elf64_Ehdr head;
  std::memcpy(&head, image, sizeof(head));
  std::vector<Elf64_Shdr> sections(head.e_shnum);
  std::memcpy(sections.data(), image + head.e_shoff, sections.size() * sizeof(Elf64_Shdr));
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_DYNSYM) continue;
    const auto* names = reinterpret_cast<const char*>(image + sections[section.sh_link].sh_offset);
    for (uint64_t at = 0; at < section.sh_size; at += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol;
      std::memcpy(&symbol, image + section.sh_offset + at, sizeof(symbol));
      if (name == names + symbol.st_name) return true;
    }
  }
  return false;
}

}  // namespace

API int hipGetDevice(int* device) {
  *device = 0;
  return Fails("hipGetDevice") ? kInvalidValue : 0;
}

API int hipDeviceGetAttribute(int* value, int attribute, int device) {
  if (attribute != 63 || device != 0) return kInvalidValue;
  *value = 304;
  return 0;
}

// As HIP 6 and 7: 1472 bytes, the name of the GPU from byte 1160 on.
API int hipGetDevicePropertiesR0600(void* properties, int device) {
  if (device != 0 || Fails("hipGetDevicePropertiesR0600")) return kInvalidValue;
  std::memset(properties, 0x5a, 1472);
  std::snprintf(static_cast<char*>(properties) + 1160, 256, "%s", GpuName().c_str());
  return 0;
}

API int hipModuleLoadData(void** module, const void* image) {
  if (Fails("hipModuleLoadData")) return kInvalidImage;
  Elf64_Ehdr head;
  std::memcpy(&head, image, sizeof(head));
  if (std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_machine != kMachineAmdGpu) {
    return kInvalidImage;
  }
  if ((head.e_flags & 0xff) != MachineOf(Gpu())) return kNoBinaryForGpu;
  *module = new Module{static_cast<const unsigned char*>(image)};
  return 0;
}

API int hipModuleGetFunction(void** function, void* module, const char* name) {
  if (Fails("hipModuleGetFunction")) return kNotFound;
  const auto* kernel = conv1d_test::HostKernelNamed(name);
  const std::string descriptor = std::string(name) + ".kd";
  if (kernel == nullptr || !HasSymbol(static_cast<Module*>(module)->image, descriptor)) {
    return kNotFound;
  }
  *function = new Function{kernel};
  return 0;
}

API int hipModuleLaunchKernel(void* function, unsigned blocks, unsigned blocks_y, unsigned blocks_z,
                              unsigned threads, unsigned threads_y, unsigned threads_z,
                              unsigned shared, void* stream, void** params, void** extra) {
  const auto* kernel = static_cast<Function*>(function)->kernel;
  if (Fails("hipModuleLaunchKernel") || blocks == 0 || blocks_y * blocks_z != 1 ||
      threads_y * threads_z != 1 || shared != 0 || extra != nullptr || params == nullptr ||
      static_cast<int>(threads) != kernel->threads) {
    return kInvalidValue;
  }
  // The driver copies the arguments before it returns.
  const std::unique_ptr<char[]> args(new char[kernel->args_bytes]);
  std::memcpy(args.get(), params[0], kernel->args_bytes);
  const bool narrow = Gpu().compare(0, 4, "gfx1") == 0;
  kernel->run(args.get(), blocks, {narrow ? 32 : 64});
  if (FILE* log = std::fopen(Variable("STAND_IN_LOG", "/dev/null").c_str(), "a")) {
    std::fprintf(log, "%s %u %u %p\n", kernel->name, blocks, threads, stream);
    std::fclose(log);
  }
  return 0;
}

API const char* hipGetErrorString(int code) {
  switch (code) {
    case kInvalidValue:
      return "invalid argument";
    case kInvalidImage:
      return "device kernel image is invalid";
    case kNoBinaryForGpu:
      return "no kernel image is available for execution on the device";
    default:
      return "named symbol not found";
  }
}
