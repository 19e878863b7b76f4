// One instance of the decode kernel: head dim {HEAD_DIM}, {DTYPE}.
#include "csrc/mustafar/decode_launch.cuh"

namespace accel::mustafar {

template cudaError_t LaunchDecode<{DTYPE}, {HEAD_DIM}>(const DecodeParams&, const DecodePlan&,
                                                       float*, float2*, cudaStream_t);

}  // namespace accel::mustafar
