// File: feature.h
//
// A part that a build may leave out. The headers that //tools/cuda:switches.bzl generates have one
// for every switch of a package.
#pragma once

namespace accel {

struct Feature {
  const char* flag;  // the flag that leaves it out: "HSTU_DISABLE_RAB"
  const char* name;  // "RAB"
  bool enabled;
};

}  // namespace accel
