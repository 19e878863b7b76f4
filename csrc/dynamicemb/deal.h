// File: deal.h
//
// Which rank a key is of, and what it is called there:
//
//   continuous        rank = x / block where that is a rank, else x mod world; the rank's own
//                     number of the key is x mod block, or x / world
//   roundrobin        rank = x mod world, the key stays
//   hash_roundrobin   rank = hash(x) mod world, the key stays; x as unsigned 64 bits in all of them
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/common/portable.h"
#include "csrc/dynamicemb/dynamicemb.h"

namespace accel::dynamicemb {

struct Dealt {
  int64_t rank, key;
};

// x mod world: three divisions of 32 bits, where there are that few ranks, for one of 64.
ACCEL_HD uint64_t ModWorld(uint64_t x, uint64_t world) {
  if (world > 0xffff) return x % world;
  const auto w = static_cast<uint32_t>(world);
  uint32_t rest = static_cast<uint32_t>(x >> 32) % w;
  rest = (rest << 16 | (static_cast<uint32_t>(x) >> 16)) % w;
  return (rest << 16 | (static_cast<uint32_t>(x) & 0xffff)) % w;
}

ACCEL_HD Dealt Deal(Dist dist, uint64_t x, uint64_t world, uint64_t block) {
  if (dist == Dist::kContinuous) {
    if (block > 0 && x / block < world) {
      return {static_cast<int64_t>(x / block), static_cast<int64_t>(x % block)};
    }
    return {static_cast<int64_t>(ModWorld(x, world)), static_cast<int64_t>(x / world)};
  }
  uint64_t h = x;
  if (dist == Dist::kHashRoundRobin) {
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53u;
    h ^= h >> 33;
  }
  return {static_cast<int64_t>(ModWorld(h, world)), static_cast<int64_t>(x)};
}

// What Bucketize does, on a GPU, for at most kMostTileRanks ranks: a third of its traffic. The new
// offsets are not written.
constexpr int64_t kMostTileRanks = 64;
size_t BucketizeTilesScratch(const BucketizeArgs& args);
int BucketizeTiles(const Where& where, const BucketizeArgs& args);

// Keys of long segments, dealt out in their order: of rank 0 segment by segment, of rank 1 ...
struct DealKeysArgs {
  int64_t n = 0, segments = 0, world = 1;
  const int64_t* keys = nullptr;     // (n)
  const int64_t* offsets = nullptr;  // (segments + 1); keys behind the last stay where they are
  const int32_t* dist = nullptr;     // (segments) Dist
  const int64_t* blocks = nullptr;   // (segments) of kContinuous, or null
  int64_t* lengths = nullptr;        // (world * segments)
  int64_t* new_keys = nullptr;       // (n): they stay what they are
  int64_t* place = nullptr;          // (n): where key i went
  void* scratch = nullptr;
};
constexpr int64_t kMostParts = 1024;  // world * segments
size_t DealKeysScratch(const DealKeysArgs& args);
int DealKeys(const Where& where, const DealKeysArgs& args);

}  // namespace accel::dynamicemb
