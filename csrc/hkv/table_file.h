// File: table_file.h
//
// The file that save() writes and load() reads. Little-endian:
//
//   bytes 0-7    "HKVTABLE"
//   8-11         version, 1
//   12-15        key type      (KeyType)
//   16-19        value type    (ValueType)
//   20-23        evict strategy (EvictStrategy)
//   24-27        dim
//   28-31        rows per block, 65536
//   32-39        rows
//   40-47        checksum of everything after the header
//   48-63        zero
//   then blocks of up to 65536 rows: keys (8 bytes each), scores (8 bytes each), rows of values
//
// Checksum: h = 0x9e3779b97f4a7c15; for every 8-byte word w of the keys, the scores and the values
// of each block (a last partial word of each is filled with zeros):
// h = rotate_left((h ^ w) * 0xff51afd7ed558ccd, 29).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/common/atomic_file.h"
#include "csrc/hkv/types.h"

namespace hkv {

struct TableFileHeader {
  char magic[8];
  uint32_t version;
  int32_t key_type;
  int32_t value_type;
  int32_t strategy;
  uint32_t dim;
  uint32_t block_rows;
  uint64_t rows;
  uint64_t checksum;
  uint64_t reserved[2];
};
static_assert(sizeof(TableFileHeader) == 64, "the header is 64 bytes");

constexpr uint32_t kFileBlockRows = 65536;

// Rows that are read or written together: a power of two, few enough for 16 MB of values.
inline uint64_t ChunkRows(uint64_t row_bytes) {
  uint64_t rows = kFileBlockRows;
  while (rows > 1 && rows * row_bytes > (16 << 20)) rows /= 2;
  return rows;
}

// Rows in host memory.
struct Rows {
  std::vector<uint64_t> keys, scores;
  std::vector<char> values;

  size_t size() const { return keys.size(); }
  void Resize(size_t n, size_t row_bytes) {
    keys.resize(n);
    scores.resize(n);
    values.resize(n * row_bytes);
  }
};

// Writes a file of `rows` rows; it is there when Commit() is done, or not at all.
class TableFileWriter {
 public:
  TableFileWriter(const std::string& path, KeyType key, ValueType value, EvictStrategy strategy,
                  uint32_t dim, uint64_t rows);

  void Append(size_t n, const uint64_t* keys, const uint64_t* scores, const void* values);
  uint64_t Commit();  // returns the number of rows

 private:
  accel::AtomicFile file_;
  TableFileHeader header_;
  uint64_t row_bytes_;
  uint64_t done_ = 0;
};

// Opens and checks the whole file: header, size, checksum, and that it suits the table.
class TableFileReader {
 public:
  TableFileReader(const std::string& path, KeyType key, ValueType value, EvictStrategy strategy,
                  uint32_t dim);

  uint64_t rows() const { return header_.rows; }
  uint64_t row_bytes() const { return row_bytes_; }
  // Rows [first, first + n), n at most what ChunkRows() says.
  void Read(uint64_t first, size_t n, Rows* rows) const;

 private:
  void CheckHeader(KeyType key, ValueType value, EvictStrategy strategy, uint32_t dim) const;

  std::string path_;
  accel::InputFile file_;
  TableFileHeader header_;
  uint64_t row_bytes_;
};

}  // namespace hkv
