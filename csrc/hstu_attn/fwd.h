// File: fwd.h
//
// What the translation units of the forward share: the instances (fwd_inst.cu.tpl) and the layout
// of their scratch memory (fwd.cu).
#pragma once

#include <cstddef>

#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/split.h"

namespace accel::hstu {

// One instance; Traits: FwdTraits. Defined in fwd_launch.cuh.
template <class Traits>
int RunFwd(const FwdParams& p, void* workspace, cudaStream_t stream);

struct FwdWorkspace {
  Split split;
  size_t schedule = 0;  // ScheduleHeader, then a RowBlock per block of rows
  size_t arrived = 0;   // of the parts of split blocks
  size_t sums = 0;      // of the parts
  size_t bytes = 0;
};

// For the current device.
FwdWorkspace FwdWorkspaceOf(const FwdParams& p);

}  // namespace accel::hstu
