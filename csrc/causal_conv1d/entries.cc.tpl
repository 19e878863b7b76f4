// The table of launches: the kernels of instances.bzl.
#include "csrc/causal_conv1d/conv.h"
#include "csrc/causal_conv1d/launch.h"

#define X(name, Args, threads, unit) extern "C" void name(Args);
namespace accel::conv1d {

{TABLE}

#undef X
#define X(name, Args, threads, unit) \
  {#name, reinterpret_cast<const void*>(&name), threads, static_cast<int>(sizeof(Args))},
const Entry kEntries[] = {
{TABLE}
};
const int kEntryCount = static_cast<int>(sizeof(kEntries) / sizeof(kEntries[0]));

}  // namespace accel::conv1d
