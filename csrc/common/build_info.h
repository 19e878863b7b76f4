// File: build_info.h
//
// What is in a build: its switches (tools/cuda/switches.bzl) and how it tells of them.
#pragma once

#include <sstream>
#include <string>

#include "csrc/common/errors.h"
#include "csrc/common/feature.h"

namespace accel {

// Fails where this build lacks what the parts name: "head dim 32 is not in this build
// (HSTU_DISABLE_HDIM32)".
template <class... Parts>
void Require(const Feature& feature, const Parts&... what) {
  Check(feature.enabled, what..., " is not in this build (", feature.flag, ")");
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
