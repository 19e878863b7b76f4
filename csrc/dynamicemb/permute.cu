// File: permute.cu
//
// Rows of bags put in another order, and with each row all that its bags hold, in one piece: where
// a row's values begin follows from sums of whole rows, and bags need not be looked at.
#include "csrc/common/scratch.h"
#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/permute.h"
#include "csrc/dynamicemb/scan.cuh"

namespace accel::dynamicemb {

constexpr int64_t kBagsOfBlock = 8 * kBlock;

// sums[row] += the lengths of up to kBagsOfBlock of its bags.
template <class Length>
__global__ void __launch_bounds__(kBlock)
    RowSums(int64_t bags, int64_t parts, const Length* lengths, unsigned long long* sums) {
  __shared__ int64_t warps[kWarps];
  const int64_t row = blockIdx.x / parts, begin = blockIdx.x % parts * kBagsOfBlock;
  int64_t sum = 0;
  for (int64_t b = begin + threadIdx.x; b < Min(begin + kBagsOfBlock, bags); b += kBlock) {
    sum += lengths[row * bags + b];
  }
  const int64_t before = BlockExclusiveSum(sum, warps);
  if (threadIdx.x == kBlock - 1) {
    atomicAdd(sums + row, static_cast<unsigned long long>(before + sum));
  }
}

struct BeginsBody {
  const int64_t* sums;
  const int32_t* permute;  // or null: as they are
  int64_t n;
  int64_t* begins;
  ACCEL_HD int64_t Value(int64_t i) const { return sums[permute ? permute[i] : i]; }
  ACCEL_HD void Store(int64_t i, int64_t before, int64_t) const { begins[i] = before; }
};

template <class Word>
struct MoveBody {
  const int32_t* permute;
  const int64_t *from, *to;
  int64_t rows;
  const Word* in;
  Word* out;
  ACCEL_HD void operator()(int64_t i) const {
    const int64_t row = SegmentOf(to, rows, i);
    out[i] = in[from[permute[row]] + i - to[row]];
  }
};

template <class Length>
struct LengthsBody {
  const int32_t* permute;
  int64_t bags;
  const Length* in;
  Length* out;
  ACCEL_HD void operator()(int64_t i) const { out[i] = in[permute[i / bags] * bags + i % bags]; }
};

struct PermuteScratchParts {
  int64_t *sums, *from, *to;
  void* scan;
};

PermuteScratchParts PartsOf(const PermuteArgs& a) {
  auto* const sums = static_cast<int64_t*>(a.scratch);
  int64_t* const from = sums + a.rows;
  int64_t* const to = from + a.rows + 1;
  return {sums, from, to, to + a.new_rows + 1};
}

size_t PermuteScratch(const PermuteArgs& a) {
  return static_cast<size_t>(8 * (2 * a.rows + a.new_rows + 2)) +
         ScanScratch(Max(a.rows, a.new_rows));
}

template <class Length>
int Sums(const Where& where, const PermuteArgs& a, int64_t* sums) {
  const auto* const lengths = static_cast<const Length*>(a.lengths);
  if (!where.cuda) {
    for (int64_t r = 0; r < a.rows; ++r) {
      sums[r] = 0;
      for (int64_t b = 0; b < a.bags; ++b) sums[r] += lengths[r * a.bags + b];
    }
    return cudaSuccess;
  }
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const auto bytes = static_cast<size_t>(8 * a.rows);
  if (const cudaError_t code = cudaMemsetAsync(sums, 0, bytes, stream)) return code;
  const int64_t parts = CeilDiv<int64_t>(a.bags, kBagsOfBlock);
  RowSums<<<static_cast<unsigned>(a.rows * parts), kBlock, 0, stream>>>(
      a.bags, parts, lengths, reinterpret_cast<unsigned long long*>(sums));
  return cudaGetLastError();
}

template <class Length>
int MoveLengths(const Where& where, const PermuteArgs& a) {
  const LengthsBody<Length> body{a.permute, a.bags, static_cast<const Length*>(a.lengths),
                                 static_cast<Length*>(a.new_lengths)};
  return Each(where, a.new_rows * a.bags, body);
}

template <class Word>
int MoveWords(const Where& where, const PermuteArgs& a, const Moved& moved) {
  const PermuteScratchParts at = PartsOf(a);
  const MoveBody<Word> body{a.permute,
                            at.from,
                            at.to,
                            a.new_rows,
                            static_cast<const Word*>(moved.in),
                            static_cast<Word*>(moved.out)};
  return Each(where, a.n, body);
}

int Move(const Where& where, const PermuteArgs& a, const Moved& moved) {
  switch (moved.bytes) {
    case 0:
      return cudaSuccess;
    case 1:
      return MoveWords<uint8_t>(where, a, moved);
    case 2:
      return MoveWords<uint16_t>(where, a, moved);
    case 4:
      return MoveWords<uint32_t>(where, a, moved);
    default:
      return MoveWords<uint64_t>(where, a, moved);
  }
}

int Permute(const Where& where, const PermuteArgs& a) {
  if (a.new_rows * a.bags == 0) return cudaSuccess;
  const PermuteScratchParts at = PartsOf(a);
  int code = a.wide ? Sums<int64_t>(where, a, at.sums) : Sums<int32_t>(where, a, at.sums);
  if (code) return code;
  code = Scan(where, a.rows, BeginsBody{at.sums, nullptr, a.rows, at.from}, at.scan);
  if (code) return code;
  code = Scan(where, a.new_rows, BeginsBody{at.sums, a.permute, a.new_rows, at.to}, at.scan);
  if (code) return code;
  code = a.wide ? MoveLengths<int64_t>(where, a) : MoveLengths<int32_t>(where, a);
  if (code) return code;
  if ((code = Move(where, a, a.values))) return code;
  return Move(where, a, a.weights);
}

struct alignas(16) Four {
  float x[4];
};
ACCEL_HD float Times(float x, float factor) { return x * factor; }
ACCEL_HD Four Times(const Four& v, float f) {
  return {{v.x[0] * f, v.x[1] * f, v.x[2] * f, v.x[3] * f}};
}
ACCEL_HD uint16_t Times(uint16_t x, float) { return x; }

template <class Word, class Index, bool kTimes>
struct MoveRowsBody {
  const Word* from;
  const Index* order;
  int64_t words;
  bool scatter;
  float factor;
  Word* to;
  ACCEL_HD void operator()(int64_t i) const {
    const int64_t other = order[i];
    const Word* const in = from + (scatter ? i : other) * words;
    Word* const out = to + (scatter ? other : i) * words;
    for (int64_t w = Team::lane(); w < words; w += Team::kLanes) {
      out[w] = kTimes ? Times(in[w], factor) : in[w];
    }
  }
};

template <class Word, bool kTimes>
int MoveRowsOf(const Where& where, const MoveRowsArgs& a) {
  const auto* const from = static_cast<const Word*>(a.from);
  auto* const to = static_cast<Word*>(a.to);
  const int64_t words = a.row_bytes / static_cast<int64_t>(sizeof(Word));
  if (a.wide) {
    const auto* const order = static_cast<const int64_t*>(a.order);
    return EachTeam(
        where, a.rows,
        MoveRowsBody<Word, int64_t, kTimes>{from, order, words, a.scatter, a.factor, to});
  }
  const auto* const order = static_cast<const int32_t*>(a.order);
  return EachTeam(where, a.rows,
                  MoveRowsBody<Word, int32_t, kTimes>{from, order, words, a.scatter, a.factor, to});
}

int MoveRows(const Where& where, const MoveRowsArgs& a) {
  const auto bits = reinterpret_cast<uintptr_t>(a.from) | reinterpret_cast<uintptr_t>(a.to) |
                    static_cast<uintptr_t>(a.row_bytes);
  const bool times = a.factor != 1;
  if (bits % 16 == 0) {
    return times ? MoveRowsOf<Four, true>(where, a) : MoveRowsOf<Four, false>(where, a);
  }
  if (bits % 4 == 0) {
    return times ? MoveRowsOf<float, true>(where, a) : MoveRowsOf<float, false>(where, a);
  }
  return MoveRowsOf<uint16_t, false>(where, a);
}

struct EndsBody {
  const int64_t* lengths;
  int64_t* ends;
  ACCEL_HD int64_t Value(int64_t i) const { return lengths[i]; }
  ACCEL_HD void Store(int64_t i, int64_t before, int64_t) const { ends[i] = before; }
};

size_t EndsScratch(int64_t n) { return ScanScratch(n); }

int Ends(const Where& where, int64_t n, const int64_t* lengths, int64_t* ends, void* scratch) {
  return Scan(where, n, EndsBody{lengths, ends}, scratch);
}

}  // namespace accel::dynamicemb
