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
int FwdOfRab(const FwdParams& p, void* workspace, cudaStream_t stream) {
  if (p.rab.data == nullptr) {
    return RunFwd<FwdTraits<Element, kHeadDim, false>>(p, workspace, stream);
  }
  if constexpr (kWithRab) {
    return RunFwd<FwdTraits<Element, kHeadDim, true>>(p, workspace, stream);
  }
  return cudaErrorNotSupported;
}

template <class Element>
int FwdOfHeadDim(const FwdParams& p, void* workspace, cudaStream_t stream) {
  switch (p.head_dim) {
    case 32:
      if constexpr (kWithHdim32) return FwdOfRab<Element, 32>(p, workspace, stream);
      break;
    case 64:
      if constexpr (kWithHdim64) return FwdOfRab<Element, 64>(p, workspace, stream);
      break;
    case 128:
      if constexpr (kWithHdim128) return FwdOfRab<Element, 128>(p, workspace, stream);
      break;
    case 256:
      if constexpr (kWithHdim256) return FwdOfRab<Element, 256>(p, workspace, stream);
      break;
  }
  return cudaErrorNotSupported;
}

FwdWorkspace FwdWorkspaceOf(const FwdParams& p) {
  const int64_t blocks = FwdRowBlocks(p) * p.heads;
  FwdWorkspace w;
  w.split = PlanSplit(FwdSplitWork(p, ProcessorCount()));
  w.arrived = AlignScratch(ScheduleBytes(p.total_q, p.batch, kFwdRows));
  w.sums = w.arrived + SplitCounterBytes(w.split, blocks);
  w.bytes = w.sums + SplitBytes(w.split, blocks, kFwdRows * p.head_dim);
  return w;
}

size_t FwdWorkspaceBytes(const FwdParams& p) { return FwdWorkspaceOf(p).bytes; }

int Fwd(const FwdParams& p, void* workspace, cudaStream_t stream) {
  if (!InBuild(p.mask)) return cudaErrorNotSupported;
  if (p.batch == 0 || p.total_q == 0) return cudaSuccess;
  switch (p.dtype) {
    case DType::kBf16:
      if constexpr (kWithBf16) return FwdOfHeadDim<__nv_bfloat16>(p, workspace, stream);
      break;
    case DType::kFp16:
      if constexpr (kWithFp16) return FwdOfHeadDim<__half>(p, workspace, stream);
      break;
  }
  return cudaErrorNotSupported;
}

}  // namespace accel::hstu
