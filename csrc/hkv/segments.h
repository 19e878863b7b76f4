// File: segments.h
//
// Calls over many tables (Segments in calls.h): their checks. Part of table.h.
//
//   Table* tables[] = {users.get(), items.get()};
//   const uint64_t offsets[] = {0, 1000, 1500};  // in the memory of the tables
//   Table::Run(Segments{2, tables, offsets}, call, stream);  // call.n = 1500
#pragma once

#include <algorithm>
#include <cstring>

#include "csrc/hkv/table.h"

namespace hkv {

inline uint64_t Table::CheckedPitch(const Segments& segments, const char* call, uint64_t pitch) {
  const uint64_t count = segments.count;
  Table* const* const tables = segments.tables;
  accel::CheckArgument(count > 0 && tables != nullptr, call, ": there are ", count,
                       " tables; one at least is needed");
  uint64_t widest = 0;
  for (uint64_t t = 0; t < count; ++t) {
    if (tables[t] == nullptr) FailArgument(call, ": tables[", t, "] is null");
    const Table &one = *tables[t], &first = *tables[0];
    accel::CheckArgument(
        std::strcmp(one.engine_, first.engine_) == 0 && one.device() == first.device() &&
            one.key_ == first.key_ && one.value_ == first.value_,
        call, ": tables[", t, "] is ", one.engine_, ", ", Name(one.key_), ", ", Name(one.value_),
        " on device ", one.device(), "; tables[0] is ", first.engine_, ", ", Name(first.key_), ", ",
        Name(first.value_), " on device ", first.device(), "; all must be alike");
    for (uint64_t s = 0; s < t; ++s) {
      accel::CheckArgument(tables[s] != tables[t], call, ": tables[", s, "] and tables[", t,
                           "] are one table; they must be different ones");
    }
    widest = std::max(widest, one.row_bytes());
  }
  CheckPitch(call, pitch, widest, SizeOf(tables[0]->value_));
  return pitch == 0 ? widest : pitch;
}

inline void Table::Run(const Segments& segments, const Read& call, Stream stream) {
  Read checked = call;
  checked.pitch = CheckedPitch(segments, call.name, call.pitch);
  CheckArray(call.name, "offsets", segments.count, segments.offsets);
  Check(call);
  if (call.missed_size != nullptr) {
    FailArgument(call.name, ": missed keys of several tables are not listed; ask for founds");
  }
  segments.tables[0]->DoAll(segments, checked, stream);
}

inline void Table::Run(const Segments& segments, const Write& call, Stream stream) {
  Write checked = call;
  checked.pitch = CheckedPitch(segments, call.name, call.pitch);
  CheckArray(call.name, "offsets", segments.count, segments.offsets);
  for (uint64_t t = 0; t < segments.count; ++t) Check(call, segments.tables[t]->scoring(), true);
  segments.tables[0]->DoAll(segments, checked, stream);
}

inline void Table::Run(const Segments& segments, const SegmentsExport& call, Stream stream) {
  SegmentsExport checked = call;
  checked.out.pitch = CheckedPitch(segments, "export_batch", call.out.pitch);
  CheckArray("export_batch", "begin", segments.count, call.begin);
  CheckArray("export_batch", "end", segments.count, call.end);
  for (uint64_t t = 0; t < segments.count; ++t) {
    Export one = call.out;
    one.begin = call.begin[t];
    one.end = call.end[t];
    CheckRange(one, segments.tables[t]->capacity());
  }
  segments.tables[0]->DoAll(segments, checked, stream);
}

}  // namespace hkv
