// One backward instance: {DTYPE}, head dim {HEAD_DIM}, rab: {HAS_RAB}, drab: {HAS_DRAB}.
#include "csrc/hstu_attn/bwd_launch.cuh"

namespace accel::hstu {

template int RunBwd<BwdTraits<{DTYPE}, {HEAD_DIM}, {HAS_RAB}, {HAS_DRAB}>>(const BwdParams&, void*,
                                                                            cudaStream_t);

}  // namespace accel::hstu
