// File: ops.cc
//
// What libhstu_triton.so says of itself: the compiled kernels in it, as JSON.

#include <torch/csrc/stable/library.h>

#include <sstream>
#include <string>

#include "csrc/common/errors.h"
#include "csrc/hstu_triton/objects.h"

ACCEL_PACKAGE("hstu_triton");

namespace accel::triton {
namespace {

std::string ThisBuild() {
  std::ostringstream json;
  json << "{\"version\": \"" << HSTU_TRITON_VERSION << "\", \"triton\": \"" << HSTU_TRITON_COMPILER
       << "\", \"objects\": [";
  for (uint64_t i = 0; i < hstu_triton_object_count; ++i) {
    const Object& o = hstu_triton_objects[i];
    json << (i > 0 ? ", " : "") << "{\"name\": \"" << o.name << "\", \"arch\": \""
         << (o.arch == 0 ? "compute_80" : "sm_" + std::to_string(o.arch))
         << "\", \"bytes\": " << o.bytes << ", \"shared\": " << o.shared << ", \"parameters\": \""
         << o.parameters << "\"}";
  }
  json << "]}";
  return json.str();
}

}  // namespace
}  // namespace accel::triton

STABLE_TORCH_LIBRARY(hstu_triton, m) { m.def("build_info() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(hstu_triton, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&accel::triton::ThisBuild));
}
