// File: build_info.h
//
// What is in a build: its switches (tools/cuda/switches.bzl) and how it tells of them.
#pragma once

#include <sstream>
#include <string>

#include "csrc/common/errors.h"

namespace accel {

// A part that a build may leave out.
struct Feature {
  const char* macro;  // the switch that leaves it out, e.g. "HSTU_DISABLE_RAB"
  const char* name;   // without the prefix, e.g. "RAB"
  bool enabled;
};

inline void Require(const Feature& feature, const char* what) {
  Check(feature.enabled, what, " is not in this build (", feature.macro, ")");
}

// {"version": "1.2.3", "archs": "sm_80,compute_80", "cuda": "13.0", "enabled": ["BACKWARD", ...],
// "disabled": [...]}. `cuda`: CUDART_VERSION.
template <class Features>
std::string BuildInfo(const char* version, const char* archs, int cuda, const Features& features) {
  std::ostringstream json;
  json << "{\"version\": \"" << version << "\", \"archs\": \"" << archs << "\", \"cuda\": \""
       << cuda / 1000 << "." << cuda % 1000 / 10 << "\"";
  for (const bool enabled : {true, false}) {
    json << (enabled ? ", \"enabled\": [" : ", \"disabled\": [");
    const char* separator = "";
    for (const Feature& feature : features) {
      if (feature.enabled != enabled) continue;
      json << separator << "\"" << feature.name << "\"";
      separator = ", ";
    }
    json << "]";
  }
  json << "}";
  return json.str();
}

}  // namespace accel
