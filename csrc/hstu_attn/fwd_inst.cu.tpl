// One forward instance: {DTYPE}, head dim {HEAD_DIM}, rab: {HAS_RAB}.
#include "csrc/hstu_attn/fwd_launch.cuh"

namespace accel::hstu {

template int run_fwd<FwdTraits<{DTYPE}, {HEAD_DIM}, {HAS_RAB}>>(const FwdParams&, void*,
                                                                cudaStream_t);

// A plain definition, after which nvcc names the unit; else the name holds path and process id, and
// no two builds give the same bytes.
int unit_{name}() { return 0; }

}  // namespace accel::hstu
