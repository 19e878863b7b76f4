// File: table_file.cc
//
// See table_file.h.
#include "csrc/hkv/table_file.h"

#include <algorithm>
#include <cstring>

#include "csrc/common/errors.h"

namespace hkv {
namespace {

constexpr char kMagic[8] = {'H', 'K', 'V', 'T', 'A', 'B', 'L', 'E'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kChecksumSeed = 0x9e3779b97f4a7c15ULL;

[[noreturn]] void Fail(const std::string& path, const std::string& what) {
  accel::Fail("file '", path, "': ", what);
}

uint64_t Checksum(uint64_t h, const void* data, size_t bytes) {
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

}  // namespace

TableFileWriter::TableFileWriter(const std::string& path, KeyType key, ValueType value,
                                 EvictStrategy strategy, uint32_t dim, uint64_t rows)
    : file_(path), row_bytes_(dim * SizeOf(value)) {
  std::memset(&header_, 0, sizeof(header_));
  std::memcpy(header_.magic, kMagic, sizeof(kMagic));
  header_.version = kVersion;
  header_.key_type = static_cast<int32_t>(key);
  header_.value_type = static_cast<int32_t>(value);
  header_.strategy = static_cast<int32_t>(strategy);
  header_.dim = dim;
  header_.block_rows = kFileBlockRows;
  header_.rows = rows;
}

void TableFileWriter::Append(size_t n, const uint64_t* keys, const uint64_t* scores,
                             const void* values) {
  const char* bytes = static_cast<const char*>(values);
  const uint64_t before = done_;
  ForBlocks(done_, n, header_.rows, row_bytes_, [&](uint64_t row, uint64_t part, const Block& b) {
    const uint64_t from = row - before, at = row - b.first;
    file_.Write(b.keys + at * 8, keys + from, part * 8);
    file_.Write(b.scores + at * 8, scores + from, part * 8);
    file_.Write(b.values + at * row_bytes_, bytes + from * row_bytes_, part * row_bytes_);
  });
  done_ += n;
}

uint64_t TableFileWriter::Commit() {
  if (done_ != header_.rows) {
    accel::Fail("save: the table has ", header_.rows, " rows, but ", done_, " were written");
  }
  header_.checksum = ChecksumOf(file_, header_.rows, row_bytes_);
  file_.Write(0, &header_, sizeof(header_));
  file_.Commit();
  return header_.rows;
}

TableFileReader::TableFileReader(const std::string& path, KeyType key, ValueType value,
                                 EvictStrategy strategy, uint32_t dim)
    : path_(path), file_(path), row_bytes_(dim * SizeOf(value)) {
  file_.Read(0, &header_, sizeof(header_));
  CheckHeader(key, value, strategy, dim);
  const uint64_t row = 16 + row_bytes_;
  if (header_.rows > file_.bytes() / row || file_.bytes() != sizeof(header_) + header_.rows * row) {
    Fail(path, "is " + std::to_string(file_.bytes()) + " bytes long; " +
                   std::to_string(header_.rows) + " rows need " +
                   std::to_string(sizeof(header_) + header_.rows * row));
  }
  if (ChecksumOf(file_, header_.rows, row_bytes_) != header_.checksum) {
    Fail(path, "is damaged: its checksum does not match");
  }
}

void TableFileReader::CheckHeader(KeyType key, ValueType value, EvictStrategy strategy,
                                  uint32_t dim) const {
  if (std::memcmp(header_.magic, kMagic, sizeof(kMagic)) != 0) {
    Fail(path_, "is not a hash table file (its first bytes are not HKVTABLE)");
  }
  if (header_.version != kVersion) {
    Fail(path_, "has version " + std::to_string(header_.version) + "; this build reads version " +
                    std::to_string(kVersion));
  }
  const auto differs = [&](const char* field, const std::string& file, const std::string& table) {
    Fail(path_, std::string("holds ") + field + " " + file + ", the table has " + table);
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
    Fail(path_, "is damaged: bytes 48 to 63 are not zero");
  }
}

void TableFileReader::Read(uint64_t first, size_t n, Rows* rows) const {
  rows->Resize(n, row_bytes_);
  ForBlocks(first, n, header_.rows, row_bytes_, [&](uint64_t row, uint64_t part, const Block& b) {
    const uint64_t to = row - first, at = row - b.first;
    file_.Read(b.keys + at * 8, rows->keys.data() + to, part * 8);
    file_.Read(b.scores + at * 8, rows->scores.data() + to, part * 8);
    file_.Read(b.values + at * row_bytes_, rows->values.data() + to * row_bytes_,
               part * row_bytes_);
  });
}

}  // namespace hkv
