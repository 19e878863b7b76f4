// File: host_segments.h
//
// What of a call over many tables (Segments in calls.h) is for one of them, where the offsets can
// be read by the host.
#pragma once

#include <cstdint>

#include "csrc/hkv/calls.h"
#include "csrc/hkv/checks.h"

namespace hkv {

inline void CheckOffsets(const Segments& segments, const char* call, uint64_t n) {
  const uint64_t* const offsets = segments.offsets;
  for (uint64_t t = 0; t < segments.count; ++t) {
    if (offsets[t] > offsets[t + 1] || offsets[t + 1] > n) {
      FailArgument(call, ": offsets[", t, "] and offsets[", t + 1, "] are ", offsets[t], " and ",
                   offsets[t + 1], "; they must ascend and end within n = ", n);
    }
  }
}

// Goes `entries` entries of `step` forward in an array that there may not be.
template <class T>
void Advance(T** array, uint64_t entries, uint64_t step = 1) {
  if (*array != nullptr) *array += entries * step;
}

inline Read PartOf(const Segments& segments, Read call, uint64_t t) {
  const uint64_t first = segments.offsets[t];
  call.n = segments.offsets[t + 1] - first;
  Advance(&call.keys, first);
  Advance(&call.values, first, call.pitch);
  Advance(&call.rows, first);
  Advance(&call.row_numbers, first);
  Advance(&call.founds, first);
  Advance(&call.scores, first);
  return call;
}

inline Write PartOf(const Segments& segments, Write call, uint64_t t) {
  const uint64_t first = segments.offsets[t];
  call.n = segments.offsets[t + 1] - first;
  Advance(&call.keys, first);
  Advance(&call.scores, first);
  Advance(&call.values, first, call.pitch);
  Advance(&call.accums, first);
  Advance(&call.rows, first);
  Advance(&call.row_numbers, first);
  Advance(&call.founds, first);
  Advance(&call.out_scores, first);
  Advance(&call.status, first);
  Advance(&call.evicted_keys, first);
  Advance(&call.evicted_values, first, call.pitch);
  Advance(&call.evicted_scores, first);
  Advance(&call.evicted_count, t);
  return call;
}

inline Export PartOf(const SegmentsExport& call, uint64_t t) {
  Export part = call.out;
  uint64_t before = 0;
  for (uint64_t s = 0; s < t; ++s) before += call.end[s] - call.begin[s];
  part.begin = call.begin[t];
  part.end = call.end[t];
  Advance(&part.keys, before);
  Advance(&part.values, before, part.pitch);
  Advance(&part.scores, before);
  Advance(&part.count, t);
  return part;
}

}  // namespace hkv
