// File: hip_units.h
//
// What a hip_library (//tools:defs.bzl) puts into the library that links it: for each source, its
// code objects for AMD GPUs as one of clang's offload bundles.
//
//   extern "C" const accel::HipUnit kernels_units[];  // of hip_library(name = "kernels")
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace accel {

struct HipUnit {
  const char* name;             // the source without .cu; null behind the last one
  const unsigned char* bundle;  // begins with kHipBundleMagic
};

struct HipObject {
  std::string gpu;  // gfx942
  const unsigned char* data;
  uint64_t size;
};

constexpr char kHipBundleMagic[] = "__CLANG_OFFLOAD_BUNDLE__";

// The code objects of a bundle. It is one that the build made: nothing is checked.
inline std::vector<HipObject> HipObjects(const unsigned char* bundle) {
  const char kEntry[] = "hipv4-amdgcn-amd-amdhsa--";
  const unsigned char* at = bundle + sizeof(kHipBundleMagic) - 1;
  const auto number = [&at] {
    uint64_t value;
    std::memcpy(&value, at, sizeof(value));
    at += sizeof(value);
    return value;
  };
  std::vector<HipObject> found;
  for (uint64_t left = number(); left > 0; --left) {
    const uint64_t offset = number(), size = number(), length = number();
    const std::string name(reinterpret_cast<const char*>(at), length);
    at += length;
    if (name.rfind(kEntry, 0) == 0) {
      found.push_back({name.substr(sizeof(kEntry) - 1), bundle + offset, size});
    }
  }
  return found;
}

}  // namespace accel
