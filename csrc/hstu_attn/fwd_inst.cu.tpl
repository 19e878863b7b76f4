// One forward instance: {DTYPE}, head dim {HEAD_DIM}, rab: {HAS_RAB}.
#include "csrc/hstu_attn/fwd_launch.cuh"

namespace accel::hstu {

template int RunFwd<FwdTraits<{DTYPE}, {HEAD_DIM}, {HAS_RAB}>>(const FwdParams&, void*,
                                                                cudaStream_t);

}  // namespace accel::hstu
