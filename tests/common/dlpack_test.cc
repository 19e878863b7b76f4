// File: dlpack_test.cc
//
// The structures lie in memory as DLPack's document says (64-bit machines).
#include "csrc/common/dlpack.h"

#include <cstddef>

using accel::DLManagedTensor;
using accel::DLManagedTensorVersioned;
using accel::DLTensor;

static_assert(offsetof(DLTensor, data) == 0 && offsetof(DLTensor, device) == 8, "");
static_assert(offsetof(DLTensor, ndim) == 16 && offsetof(DLTensor, dtype) == 20, "");
static_assert(offsetof(DLTensor, shape) == 24 && offsetof(DLTensor, strides) == 32, "");
static_assert(offsetof(DLTensor, byte_offset) == 40 && sizeof(DLTensor) == 48, "");
static_assert(offsetof(DLManagedTensor, manager_ctx) == 48, "");
static_assert(offsetof(DLManagedTensor, deleter) == 56, "");
static_assert(offsetof(DLManagedTensorVersioned, manager_ctx) == 8, "");
static_assert(offsetof(DLManagedTensorVersioned, deleter) == 16, "");
static_assert(offsetof(DLManagedTensorVersioned, flags) == 24, "");
static_assert(offsetof(DLManagedTensorVersioned, dl_tensor) == 32, "");

int main() { return 0; }
