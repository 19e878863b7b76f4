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
// Checksum: h = 0x9e3779b97f4a7c15; for every 8-byte word w (a last partial word is filled with
// zeros): h = rotate_left((h ^ w) * 0xff51afd7ed558ccd, 29).
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

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

// Writes to a temporary name beside `path`; Commit() syncs it and renames it. Without Commit() the
// temporary file is removed.
class TableFileWriter {
 public:
  TableFileWriter(const std::string& path, KeyType key, ValueType value, EvictStrategy strategy,
                  uint32_t dim);
  ~TableFileWriter();
  TableFileWriter(const TableFileWriter&) = delete;
  TableFileWriter& operator=(const TableFileWriter&) = delete;

  // Any number of rows; they are regrouped into blocks.
  void Append(size_t n, const uint64_t* keys, const uint64_t* scores, const void* values);
  uint64_t Commit();  // returns the number of rows

 private:
  void FlushBlock();
  void Write(const void* data, size_t bytes);

  std::string path_, temporary_;
  std::FILE* file_ = nullptr;
  TableFileHeader header_;
  size_t row_bytes_;
  std::vector<uint64_t> keys_, scores_;
  std::vector<char> values_;
};

// Opens and checks the whole file: header, size, checksum, and that it suits the table.
class TableFileReader {
 public:
  TableFileReader(const std::string& path, KeyType key, ValueType value, EvictStrategy strategy,
                  uint32_t dim);
  ~TableFileReader();
  TableFileReader(const TableFileReader&) = delete;
  TableFileReader& operator=(const TableFileReader&) = delete;

  uint64_t rows() const { return header_.rows; }
  // The next block; returns its number of rows, 0 at the end.
  size_t Next(std::vector<uint64_t>* keys, std::vector<uint64_t>* scores,
              std::vector<char>* values);

 private:
  void Read(void* data, size_t bytes);

  std::string path_;
  std::FILE* file_ = nullptr;
  TableFileHeader header_;
  size_t row_bytes_;
  uint64_t done_ = 0;
};

}  // namespace hkv
