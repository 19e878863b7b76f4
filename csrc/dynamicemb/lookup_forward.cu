// File: lookup_forward.cu
//
// The type of the rows picks the instance of the lookup.
#include "csrc/dynamicemb/lookup.cuh"

namespace accel::dynamicemb {

int LookupForward(const Where& where, const Bags& bags, const RowSource& source, void* out) {
  int code = cudaSuccess;
  WithType(source.dtype,
           [&](auto type) { code = LookupOf<decltype(type)>(where, bags, source, out); });
  return code;
}

}  // namespace accel::dynamicemb
