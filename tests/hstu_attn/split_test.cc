// File: split_test.cc
//
// split.h over many sizes of problem: who is split, into how many parts, and what they take.

#include "csrc/hstu_attn/split.h"

#include <cstdint>
#include <cstdio>

namespace {

using accel::hstu::MaskParams;
using accel::hstu::Problem;
using accel::hstu::Split;
using accel::hstu::SplitWork;

constexpr int kProcessors[] = {46, 108, 132};

Problem problem(int batch, int length, int heads, int head_dim, int left, int right) {
  Problem p;
  p.head_dim = head_dim;
  p.batch = batch;
  p.heads = p.heads_k = heads;
  p.total_q = p.total_k = batch * length;
  p.max_seqlen_q = p.max_seqlen_k = length;
  p.mask.window_left = left;
  p.mask.window_right = right;
  return p;
}

int wrong = 0;

void expect(bool holds, const char* what, const Problem& p, const Split& split) {
  if (holds || ++wrong > 10) return;
  std::printf("batch %d, length %d, heads %d, head dim %d, window (%d, %d): %d parts of %d: %s\n",
              p.batch, p.max_seqlen_k, p.heads, p.head_dim, p.mask.window_left, p.mask.window_right,
              split.most, split.length, what);
}

// What holds for every plan.
void check(const Problem& p, const SplitWork& work, int64_t blocks, int64_t floats) {
  const Split split = PlanSplit(work);
  expect(split.most >= 1 && split.most <= 8, "one part to eight", p, split);
  if (split.most == 1) {
    expect(SplitBytes(split, blocks, floats) == 0, "a block that is whole leaves nothing", p,
           split);
    return;
  }
  expect(split.length >= 256, "a part is worth a block", p, split);
  expect(work.blocks < 2 * work.room, "a GPU with two rounds of blocks has enough of them", p,
         split);
  expect(split.parts(static_cast<int32_t>(work.longest)) == split.most, "the longest has most", p,
         split);
  expect(SplitBytes(split, blocks, floats) <= int64_t{160} << 20, "at most 160 MB", p, split);
  int32_t before = 1;
  for (int32_t seen = 0; seen <= p.max_seqlen_k; seen += 37) {
    const int32_t parts = split.parts(seen);
    expect(parts >= before && parts <= split.most, "the longer, the more parts", p, split);
    expect(parts == split.most || int64_t{parts} * split.length >= seen, "parts are not longer", p,
           split);
    before = parts;
  }
}

}  // namespace

int main() {
  int64_t plans = 0, splits = 0;
  for (int processors : kProcessors) {
    for (int batch : {0, 1, 2, 3, 8, 40, 500}) {
      for (int length : {0, 1, 127, 128, 700, 2048, 5000, 16384, 100000}) {
        for (int heads : {1, 4, 16}) {
          for (int dim : {32, 64, 128, 256}) {
            for (int left : {-1, 0, 300}) {
              for (int right : {-1, 0, 300}) {
                const Problem p = problem(batch, length, heads, dim, left, right);
                const SplitWork fwd = FwdSplitWork(p, processors);
                const SplitWork bwd = BwdSplitWork(p, processors);
                check(p, fwd, FwdRowBlocks(p) * heads, accel::hstu::kFwdRows * dim);
                check(p, bwd, BwdKeyBlocks(p) * heads, 2 * accel::hstu::BwdKeys(dim) * dim);
                plans += 2;
                splits += (PlanSplit(fwd).most > 1) + (PlanSplit(bwd).most > 1);
              }
            }
          }
        }
      }
    }
  }
  expect(splits > plans / 20 && splits < plans / 2, "some are split and most are not", Problem{},
         Split{});

  const Problem lone = problem(1, 4096, 4, 128, -1, 0), full = problem(16, 2048, 4, 128, -1, 0);
  expect(PlanSplit(FwdSplitWork(lone, 132)).most > 1, "split", lone, {});
  expect(PlanSplit(BwdSplitWork(lone, 132)).most > 1, "split", lone, {});
  expect(PlanSplit(FwdSplitWork(lone, 0)).most == 1, "no GPU to ask", lone, {});
  expect(PlanSplit(FwdSplitWork(full, 132)).most == 1, "whole", full, {});
  expect(PlanSplit(BwdSplitWork(full, 132)).most == 1, "whole", full, {});

  std::printf("%lld plans, %lld of them split, %d wrong\n", static_cast<long long>(plans),
              static_cast<long long>(splits), wrong);
  return wrong == 0 ? 0 : 1;
}
