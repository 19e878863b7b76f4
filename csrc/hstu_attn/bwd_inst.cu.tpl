// One backward instance: {DTYPE}, head dim {HEAD_DIM}, rab: {HAS_RAB}, drab: {HAS_DRAB}.
#include "csrc/hstu_attn/bwd_launch.cuh"

namespace accel::hstu {

template int run_bwd<{HEAD_DIM}, {DTYPE}, {HAS_RAB}, {HAS_DRAB}>(const BwdParams&, void*,
                                                                 cudaStream_t);

// A plain definition, after which nvcc names the unit; else the name holds path and process id, and
// no two builds give the same bytes.
int unit_{name}() { return 0; }

}  // namespace accel::hstu
