// File: kernels.cu
//
// Kernels that use all that kernel_portable.h has, and some that are wrong on purpose: the tests
// must see it.
#include "csrc/common/kernel_portable.h"
#include "tests/hip/kernels.h"

namespace accel_test {

using namespace accel;  // NOLINT(build/namespaces): of this file alone

constexpr int kThreads = 128;

// y = each group's sum of x's neighbours below and above in the group, plus the sum of the group
// before it in the block.
ACCEL_KERNEL(128) neighbours(Neighbours a) {
  ACCEL_SHARED float sums[kThreads / kGroup];
  const int64_t at = BlockId() * kThreads + ThreadId();
  const float x = a.x[at];
  const float below = ShuffleUp(x, 1), above = ShuffleDown(x, 1);
  float sum = x;
  for (int places = kGroup / 2; places > 0; places /= 2) sum += ShuffleDown(sum, places);
  if (Lane() == 0) sums[ThreadId() / kGroup] = sum;
  Barrier();
  const int group = ThreadId() / kGroup;
  const float before = group == 0 ? 0.f : sums[group - 1];
  a.y[at] = (Lane() > 0 ? below : 0.f) + (Lane() < kGroup - 1 ? above : 0.f) + before;
}

// The same with the lane of the hardware in place of the group's: right where waves have 32 lanes.
ACCEL_KERNEL(128) wrong_lane(Neighbours a) {
  const int64_t at = BlockId() * kThreads + ThreadId();
#ifdef __CUDACC__
  a.y[at] = 0;
#else
  const uint32_t above = WavePermute(BitsOf(a.x[at]), (Lane() + 1) % kGroup);
  a.y[at] = FloatOf(above);
#endif
}

ACCEL_KERNEL(128) no_barrier(Neighbours a) {
  ACCEL_SHARED float seen[kThreads];
  const int64_t at = BlockId() * kThreads + ThreadId();
  seen[ThreadId()] = a.x[at];
  a.y[at] = seen[ThreadId() == 0 ? 0 : ThreadId() - 1];
}

ACCEL_KERNEL(128) half_a_barrier(Neighbours a) {
  if (ThreadId() < 64) Barrier();
  a.y[ThreadId()] = 0;
}

// Sixteen bytes in, to float and back by both types, sixteen bytes out; exp and division.
ACCEL_KERNEL(128) words(WordsArguments a) {
  const int64_t at = BlockId() * kThreads + ThreadId();
  if (at >= a.count) return;
  const Words<4> in = LoadWords<4>(a.in + 16 * at);
  Words<4> half, bfloat, out;
  for (int i = 0; i < 4; ++i) {
    half.word[i] = Pack(Low(in.word[i], Half{}), High(in.word[i], Half{}), Half{});
    bfloat.word[i] = Pack(Low(in.word[i], BFloat16{}), High(in.word[i], BFloat16{}), BFloat16{});
    const float x = FloatOf(in.word[i]);
    out.word[i] = BitsOf(Fma(Divide(x, 1.f + Exp(-x)), 2.f, 1.f));
  }
  StoreWords<4>(a.half + 16 * at, half);
  StoreWords<4>(a.bfloat + 16 * at, bfloat);
  StoreWords<4>(a.out + 16 * at, out);
  BFloat16 narrow;
  FromFloat(FloatOf(in.word[0]), &narrow);
  a.narrow[at] = narrow.bits;
  const uint64_t wide = static_cast<uint64_t>(in.word[1]) << 32 | in.word[0];
  a.wide[at] = Shuffle(wide, 31 - Lane());
}

}  // namespace accel_test
