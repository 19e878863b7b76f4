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
//
// Header-only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "csrc/common/atomic_file.h"
#include "csrc/common/errors.h"
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

namespace table_file {

inline constexpr char kMagic[8] = {'H', 'K', 'V', 'T', 'A', 'B', 'L', 'E'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kChecksumSeed = 0x9e3779b97f4a7c15ULL;

[[noreturn]] inline void Fail(const std::string& path, const std::string& what) {
  accel::Fail("file '", path, "': ", what);
}

inline uint64_t Checksum(uint64_t h, const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, p + i, std::min<size_t>(8, bytes - i));
    h = (h ^ word) * 0xff51afd7ed558ccdULL;
    h = h << 29 | h >> 35;
  }
  return h;
}

// Where the block of a row begins, and how many rows it has.
struct Block {
  Block(uint64_t row, uint64_t rows, uint64_t row_bytes)
      : first(row / kFileBlockRows * kFileBlockRows),
        rows(std::min<uint64_t>(kFileBlockRows, rows - first)),
        keys(sizeof(TableFileHeader) + first * (16 + row_bytes)),
        scores(keys + 8 * this->rows),
        values(scores + 8 * this->rows) {}

  uint64_t first, rows;
  uint64_t keys, scores, values;  // offsets in the file
};

// Calls visit(row, n, block) for pieces of rows [first, first + n) that lie in one block each.
template <class Visit>
void ForBlocks(uint64_t first, uint64_t n, uint64_t rows, uint64_t row_bytes, Visit visit) {
  while (n > 0) {
    const Block block(first, rows, row_bytes);
    const uint64_t part = std::min(n, block.first + block.rows - first);
    visit(first, part, block);
    first += part;
    n -= part;
  }
}

template <class File>
uint64_t ChecksumOf(const File& file, uint64_t rows, uint64_t row_bytes) {
  std::vector<char> buffer(1 << 20);
  uint64_t h = kChecksumSeed;
  const auto section = [&](uint64_t offset, uint64_t bytes) {
    for (uint64_t done = 0; done < bytes; done += buffer.size()) {
      const size_t part = std::min<uint64_t>(buffer.size(), bytes - done);
      file.Read(offset + done, buffer.data(), part);
      h = Checksum(h, buffer.data(), part);
    }
  };
  ForBlocks(0, rows, rows, row_bytes, [&](uint64_t, uint64_t n, const Block& block) {
    section(block.keys, n * 8);
    section(block.scores, n * 8);
    section(block.values, n * row_bytes);
  });
  return h;
}

}  // namespace table_file

inline TableFileWriter::TableFileWriter(const std::string& path, KeyType key, ValueType value,
                                        EvictStrategy strategy, uint32_t dim, uint64_t rows)
    : file_(path), row_bytes_(dim * SizeOf(value)) {
  std::memset(&header_, 0, sizeof(header_));
  std::memcpy(header_.magic, table_file::kMagic, sizeof(table_file::kMagic));
  header_.version = table_file::kVersion;
  header_.key_type = static_cast<int32_t>(key);
  header_.value_type = static_cast<int32_t>(value);
  header_.strategy = static_cast<int32_t>(strategy);
  header_.dim = dim;
  header_.block_rows = kFileBlockRows;
  header_.rows = rows;
}

inline void TableFileWriter::Append(size_t n, const uint64_t* keys, const uint64_t* scores,
                                    const void* values) {
  const char* bytes = static_cast<const char*>(values);
  const uint64_t before = done_;
  table_file::ForBlocks(done_, n, header_.rows, row_bytes_,
                        [&](uint64_t row, uint64_t part, const table_file::Block& b) {
                          const uint64_t from = row - before, at = row - b.first;
                          file_.Write(b.keys + at * 8, keys + from, part * 8);
                          file_.Write(b.scores + at * 8, scores + from, part * 8);
                          file_.Write(b.values + at * row_bytes_, bytes + from * row_bytes_,
                                      part * row_bytes_);
                        });
  done_ += n;
}

inline uint64_t TableFileWriter::Commit() {
  if (done_ != header_.rows) {
    accel::Fail("save: the table has ", header_.rows, " rows, but ", done_, " were written");
  }
  header_.checksum = table_file::ChecksumOf(file_, header_.rows, row_bytes_);
  file_.Write(0, &header_, sizeof(header_));
  file_.Commit();
  return header_.rows;
}

inline TableFileReader::TableFileReader(const std::string& path, KeyType key, ValueType value,
                                        EvictStrategy strategy, uint32_t dim)
    : path_(path), file_(path), row_bytes_(dim * SizeOf(value)) {
  file_.Read(0, &header_, sizeof(header_));
  CheckHeader(key, value, strategy, dim);
  const uint64_t row = 16 + row_bytes_;
  if (header_.rows > file_.bytes() / row || file_.bytes() != sizeof(header_) + header_.rows * row) {
    table_file::Fail(path, "is " + std::to_string(file_.bytes()) + " bytes long; " +
                               std::to_string(header_.rows) + " rows need " +
                               std::to_string(sizeof(header_) + header_.rows * row));
  }
  if (table_file::ChecksumOf(file_, header_.rows, row_bytes_) != header_.checksum) {
    table_file::Fail(path, "is damaged: its checksum does not match");
  }
}

inline void TableFileReader::CheckHeader(KeyType key, ValueType value, EvictStrategy strategy,
                                         uint32_t dim) const {
  if (std::memcmp(header_.magic, table_file::kMagic, sizeof(table_file::kMagic)) != 0) {
    table_file::Fail(path_, "is not a hash table file (its first bytes are not HKVTABLE)");
  }
  if (header_.version != table_file::kVersion) {
    table_file::Fail(path_, "has version " + std::to_string(header_.version) +
                                "; this build reads version " +
                                std::to_string(table_file::kVersion));
  }
  const auto differs = [&](const char* field, const std::string& file, const std::string& table) {
    table_file::Fail(path_,
                     std::string("holds ") + field + " " + file + ", the table has " + table);
  };
  if (header_.key_type != static_cast<int32_t>(key)) {
    differs("key type", Name(static_cast<KeyType>(header_.key_type)), Name(key));
  }
  if (header_.value_type != static_cast<int32_t>(value)) {
    differs("value type", Name(static_cast<ValueType>(header_.value_type)), Name(value));
  }
  if (header_.strategy != static_cast<int32_t>(strategy)) {
    differs("evict strategy", Name(static_cast<EvictStrategy>(header_.strategy)), Name(strategy));
  }
  if (header_.dim != dim) {
    differs("dim", std::to_string(header_.dim), std::to_string(dim));
  }
  if (header_.block_rows != kFileBlockRows) {
    differs("block rows", std::to_string(header_.block_rows), std::to_string(kFileBlockRows));
  }
  if (header_.reserved[0] != 0 || header_.reserved[1] != 0) {
    table_file::Fail(path_, "is damaged: bytes 48 to 63 are not zero");
  }
}

inline void TableFileReader::Read(uint64_t first, size_t n, Rows* rows) const {
  rows->Resize(n, row_bytes_);
  table_file::ForBlocks(first, n, header_.rows, row_bytes_,
                        [&](uint64_t row, uint64_t part, const table_file::Block& b) {
                          const uint64_t to = row - first, at = row - b.first;
                          file_.Read(b.keys + at * 8, rows->keys.data() + to, part * 8);
                          file_.Read(b.scores + at * 8, rows->scores.data() + to, part * 8);
                          file_.Read(b.values + at * row_bytes_,
                                     rows->values.data() + to * row_bytes_, part * row_bytes_);
                        });
}

}  // namespace hkv
