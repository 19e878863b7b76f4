// File: table_file.cc
//
// See table_file.h.
#include "csrc/hkv/table_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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

[[noreturn]] void FailErrno(const std::string& path, const std::string& what) {
  Fail(path, what + ": " + std::strerror(errno));
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

}  // namespace

TableFileWriter::TableFileWriter(const std::string& path, KeyType key, ValueType value,
                                 EvictStrategy strategy, uint32_t dim)
    : path_(path), temporary_(path + ".tmp." + std::to_string(getpid())) {
  std::memset(&header_, 0, sizeof(header_));
  std::memcpy(header_.magic, kMagic, sizeof(kMagic));
  header_.version = kVersion;
  header_.key_type = static_cast<int32_t>(key);
  header_.value_type = static_cast<int32_t>(value);
  header_.strategy = static_cast<int32_t>(strategy);
  header_.dim = dim;
  header_.block_rows = kFileBlockRows;
  header_.checksum = kChecksumSeed;
  row_bytes_ = dim * SizeOf(value);
  file_ = std::fopen(temporary_.c_str(), "wb");
  if (file_ == nullptr) FailErrno(temporary_, "cannot be created");
  Write(&header_, sizeof(header_));
}

TableFileWriter::~TableFileWriter() {
  if (file_ != nullptr) {
    std::fclose(file_);
    std::remove(temporary_.c_str());
  }
}

void TableFileWriter::Write(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_) != bytes) FailErrno(temporary_, "cannot be written");
}

void TableFileWriter::Append(size_t n, const uint64_t* keys, const uint64_t* scores,
                             const void* values) {
  const char* rows = static_cast<const char*>(values);
  while (n > 0) {
    const size_t part = std::min<size_t>(n, kFileBlockRows - keys_.size());
    keys_.insert(keys_.end(), keys, keys + part);
    scores_.insert(scores_.end(), scores, scores + part);
    values_.insert(values_.end(), rows, rows + part * row_bytes_);
    keys += part;
    scores += part;
    rows += part * row_bytes_;
    n -= part;
    if (keys_.size() == kFileBlockRows) FlushBlock();
  }
}

void TableFileWriter::FlushBlock() {
  const auto put = [this](const void* data, size_t bytes) {
    header_.checksum = Checksum(header_.checksum, data, bytes);
    Write(data, bytes);
  };
  put(keys_.data(), keys_.size() * 8);
  put(scores_.data(), scores_.size() * 8);
  put(values_.data(), values_.size());
  header_.rows += keys_.size();
  keys_.clear();
  scores_.clear();
  values_.clear();
}

uint64_t TableFileWriter::Commit() {
  FlushBlock();
  if (std::fseek(file_, 0, SEEK_SET) != 0) FailErrno(temporary_, "cannot be rewound");
  Write(&header_, sizeof(header_));
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) {
    FailErrno(temporary_, "cannot be synced");
  }
  std::FILE* file = file_;
  file_ = nullptr;
  if (std::fclose(file) != 0 || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    std::remove(temporary_.c_str());
    errno = error;
    FailErrno(path_, "cannot be put in place");
  }
  // The new name is durable once its directory is.
  const size_t slash = path_.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int directory = open(parent.c_str(), O_RDONLY | O_DIRECTORY);
  if (directory >= 0) {
    fsync(directory);
    close(directory);
  }
  return header_.rows;
}

TableFileReader::TableFileReader(const std::string& path, KeyType key, ValueType value,
                                 EvictStrategy strategy, uint32_t dim)
    : path_(path), row_bytes_(dim * SizeOf(value)) {
  file_ = std::fopen(path.c_str(), "rb");
  if (file_ == nullptr) FailErrno(path, "cannot be opened");
  try {
    Read(&header_, sizeof(header_));
    if (std::memcmp(header_.magic, kMagic, sizeof(kMagic)) != 0) {
      Fail(path, "is not a hash table file (its first bytes are not HKVTABLE)");
    }
    if (header_.version != kVersion) {
      Fail(path, "has version " + std::to_string(header_.version) + "; this build reads version " +
                     std::to_string(kVersion));
    }
    const auto differs = [&](const char* field, const std::string& file, const std::string& table) {
      Fail(path, std::string("holds ") + field + " " + file + ", the table has " + table);
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
    if (std::fseek(file_, 0, SEEK_END) != 0) FailErrno(path, "cannot be read");
    const uint64_t bytes = static_cast<uint64_t>(std::ftell(file_));
    const uint64_t row = 16 + row_bytes_;
    if (header_.rows > bytes / row || bytes != sizeof(header_) + header_.rows * row) {
      Fail(path, "is " + std::to_string(bytes) + " bytes long; " + std::to_string(header_.rows) +
                     " rows need " + std::to_string(sizeof(header_) + header_.rows * row));
    }
    std::fseek(file_, sizeof(header_), SEEK_SET);
    std::vector<uint64_t> keys, scores;
    std::vector<char> values;
    uint64_t checksum = kChecksumSeed;
    while (Next(&keys, &scores, &values) > 0) {
      checksum = Checksum(checksum, keys.data(), keys.size() * 8);
      checksum = Checksum(checksum, scores.data(), scores.size() * 8);
      checksum = Checksum(checksum, values.data(), values.size());
    }
    if (checksum != header_.checksum) Fail(path, "is damaged: its checksum does not match");
    std::fseek(file_, sizeof(header_), SEEK_SET);
    done_ = 0;
  } catch (...) {
    std::fclose(file_);
    throw;
  }
}

TableFileReader::~TableFileReader() { std::fclose(file_); }

void TableFileReader::Read(void* data, size_t bytes) {
  if (std::fread(data, 1, bytes, file_) != bytes) Fail(path_, "ends too early");
}

size_t TableFileReader::Next(std::vector<uint64_t>* keys, std::vector<uint64_t>* scores,
                             std::vector<char>* values) {
  const size_t n = std::min<uint64_t>(header_.rows - done_, kFileBlockRows);
  keys->resize(n);
  scores->resize(n);
  values->resize(n * row_bytes_);
  Read(keys->data(), n * 8);
  Read(scores->data(), n * 8);
  Read(values->data(), n * row_bytes_);
  done_ += n;
  return n;
}

}  // namespace hkv
