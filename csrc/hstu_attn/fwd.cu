// File: fwd.cu
//
// Chooses the forward instance for a problem, and lays out its scratch memory.
#include "csrc/common/device.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/fwd.h"
#include "csrc/hstu_attn/fwd_traits.h"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/split.cuh"

namespace accel::hstu {

template <class Element, int kHeadDim>
int fwd_of_rab(const FwdParams& p, void* workspace, cudaStream_t stream) {
  if (p.rab.data == nullptr) {
    return run_fwd<FwdTraits<Element, kHeadDim, false>>(p, workspace, stream);
  }
  if constexpr (kWithRab) {
    return run_fwd<FwdTraits<Element, kHeadDim, true>>(p, workspace, stream);
  }
  return cudaErrorNotSupported;
}

template <class Element>
int fwd_of_head_dim(const FwdParams& p, void* workspace, cudaStream_t stream) {
  switch (p.head_dim) {
    case 32:
      if constexpr (kWithHeadDim32) return fwd_of_rab<Element, 32>(p, workspace, stream);
      break;
    case 64:
      if constexpr (kWithHeadDim64) return fwd_of_rab<Element, 64>(p, workspace, stream);
      break;
    case 128:
      if constexpr (kWithHeadDim128) return fwd_of_rab<Element, 128>(p, workspace, stream);
      break;
    case 256:
      if constexpr (kWithHeadDim256) return fwd_of_rab<Element, 256>(p, workspace, stream);
      break;
  }
  return cudaErrorNotSupported;
}

FwdWorkspace fwd_workspace(const FwdParams& p) {
  const int64_t blocks = fwd_row_blocks(p) * p.heads;
  FwdWorkspace w;
  w.split = plan_split(fwd_split_work(p, ProcessorCount()));
  w.arrived = AlignScratch(schedule_bytes(p.total_q, p.batch, kFwdRows));
  w.sums = w.arrived + split_counter_bytes(w.split, blocks);
  w.bytes = w.sums + split_bytes(w.split, blocks, kFwdRows * p.head_dim);
  return w;
}

size_t fwd_workspace_bytes(const FwdParams& p) { return fwd_workspace(p).bytes; }

int fwd(const FwdParams& p, void* workspace, cudaStream_t stream) {
  if (!in_build(p.mask)) return cudaErrorNotSupported;
  if (p.batch == 0 || p.total_q == 0 || p.max_seqlen_q == 0) return cudaSuccess;
  switch (p.dtype) {
    case DType::kBf16:
      if constexpr (kWithBf16) return fwd_of_head_dim<__nv_bfloat16>(p, workspace, stream);
      break;
    case DType::kFp16:
      if constexpr (kWithFp16) return fwd_of_head_dim<__half>(p, workspace, stream);
      break;
  }
  return cudaErrorNotSupported;
}

}  // namespace accel::hstu
