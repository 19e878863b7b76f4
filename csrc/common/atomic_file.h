// File: atomic_file.h
//
// A file that is there wholly or not at all: written without a name (or, where the file system
// cannot, under a random one), synced, then put in the place of `path` in one step. Readers and
// other writers see the old file or the new one; of several writers the last one wins. A killed
// writer leaves the old file; a temporary name that one left is removed by the next writer in the
// folder. An existing file's mode is kept, a new one's follows the umask; symbolic links are
// followed; what is not a regular file is refused.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace accel {

class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();  // without Commit() nothing is left
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(uint64_t offset, const void* data, size_t bytes);
  void Read(uint64_t offset, void* data, size_t bytes) const;  // what was written
  void Commit();

 private:
  void OpenTemporary();
  [[noreturn]] void FailErrno(const char* what) const;

  std::string path_, folder_, target_, temporary_;
  int file_ = -1;
  mode_t mode_ = 0;  // of the file that is replaced
  bool replaces_ = false;
};

// A regular file, open for reading; any other kind is refused without waiting for it.
class InputFile {
 public:
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  uint64_t bytes() const { return bytes_; }
  void Read(uint64_t offset, void* data, size_t bytes) const;

 private:
  std::string path_;
  int file_ = -1;
  uint64_t bytes_ = 0;
};

}  // namespace accel
