// File: atomic_file.h
//
// A file that is there wholly or not at all: written without a name (or, where the file system
// cannot, under a random one), synced, then put in the place of `path` in one step. Readers and
// other writers see the old file or the new one; of several writers the last one wins. A killed
// writer leaves the old file; a temporary name that one left is removed by the next writer in the
// folder. An existing file's mode is kept, a new one's follows the umask; symbolic links are
// followed; what is not a regular file is refused.
//
// A temporary name is locked (flock) for as long as its writer lives, so a name whose lock is free
// was left by a dead one. Header-only.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "csrc/common/errors.h"

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

namespace files {

inline constexpr char kPrefix[] = ".accel-", kSuffix[] = ".tmp";

[[noreturn]] inline void FailFile(const std::string& path, const std::string& what) {
  Fail("file '", path, "': ", what);
}

inline void CheckPath(const std::string& path) {
  if (path.empty()) FailFile(path, "its name is empty");
  if (path.find('\0') != std::string::npos) {
    FailFile(path.c_str(), "its name goes on behind a NUL; names cannot hold one");
  }
}

inline std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// Where `path` leads to: symbolic links are followed, the last one may lead to no file yet.
inline std::string Followed(std::string path) {
  for (int links = 0; links < 40; ++links) {
    char link[PATH_MAX];
    const ssize_t length = readlink(path.c_str(), link, sizeof(link));
    if (length < 0) return path;
    const std::string to(link, length);
    path = to[0] == '/' ? to : FolderOf(path) + "/" + to;
  }
  FailFile(path, "leads through more than 40 symbolic links");
}

inline const char* KindOf(mode_t mode) {
  return S_ISDIR(mode)    ? "is a folder"
         : S_ISFIFO(mode) ? "is a pipe"
         : S_ISSOCK(mode) ? "is a socket"
                          : "is a device";
}

inline std::string RandomName() {
  uint64_t bits = 0;
  if (getentropy(&bits, sizeof(bits)) != 0) Fail("no random bits: ", std::strerror(errno));
  char name[40];
  std::snprintf(name, sizeof(name), "%s%016llx%s", kPrefix, static_cast<unsigned long long>(bits),
                kSuffix);
  return name;
}

// Removes what dead writers left in a folder.
inline void RemoveStale(const std::string& folder) {
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    const size_t fixed = sizeof(kPrefix) + sizeof(kSuffix) - 2;
    if (name.size() != fixed + 16 || name.compare(0, sizeof(kPrefix) - 1, kPrefix) != 0 ||
        name.compare(name.size() - sizeof(kSuffix) + 1, sizeof(kSuffix) - 1, kSuffix) != 0) {
      continue;
    }
    const std::string path = folder + "/" + name;
    const int file = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) continue;
    if (flock(file, LOCK_EX | LOCK_NB) == 0) unlink(path.c_str());
    close(file);
  }
  closedir(entries);
}

// All of it, by as many calls as it takes; false: errno says why (0: the file ends).
template <class Byte, class Call>
bool Whole(Call call, int file, Byte* data, size_t bytes, uint64_t offset) {
  while (bytes > 0) {
    const ssize_t done = call(file, data, bytes, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done == 0) errno = 0;
    if (done <= 0) return false;
    data += done;
    bytes -= done;
    offset += done;
  }
  return true;
}

}  // namespace files

inline AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  files::CheckPath(path);
  target_ = files::Followed(path);
  folder_ = files::FolderOf(target_);
  struct stat there;
  if (stat(target_.c_str(), &there) == 0) {
    if (!S_ISREG(there.st_mode)) {
      files::FailFile(
          path, std::string(files::KindOf(there.st_mode)) + "; only a regular file is replaced");
    }
    mode_ = there.st_mode & 07777;
    replaces_ = true;
  } else if (errno != ENOENT) {
    FailErrno("cannot be created");
  }
  files::RemoveStale(folder_);
  OpenTemporary();
}

inline void AtomicFile::OpenTemporary() {
#if defined(O_TMPFILE)
  if (access("/proc/self/fd", X_OK) == 0) {
    file_ = open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (file_ >= 0) {
      flock(file_, LOCK_EX);
      return;
    }
    if (errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == ENOSPC) {
      FailErrno("cannot be created");
    }
  }
#endif
  for (;;) {
    temporary_ = folder_ + "/" + files::RandomName();
    file_ = open(temporary_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
    if (file_ < 0 && errno == EEXIST) continue;
    if (file_ < 0) FailErrno("cannot be created");
    flock(file_, LOCK_EX);
    struct stat mine;
    if (fstat(file_, &mine) == 0 && mine.st_nlink > 0) return;
    close(file_);  // another writer took it for a dead one's before it was locked
  }
}

inline AtomicFile::~AtomicFile() {
  if (file_ < 0) return;
  if (!temporary_.empty()) unlink(temporary_.c_str());
  close(file_);
}

inline void AtomicFile::FailErrno(const char* what) const {
  files::FailFile(path_, std::string(what) + ": " + std::strerror(errno));
}

inline void AtomicFile::Write(uint64_t offset, const void* data, size_t bytes) {
  if (!files::Whole(pwrite, file_, static_cast<const char*>(data), bytes, offset)) {
    FailErrno("cannot be written");
  }
}

inline void AtomicFile::Read(uint64_t offset, void* data, size_t bytes) const {
  if (!files::Whole(pread, file_, static_cast<char*>(data), bytes, offset))
    FailErrno("cannot be read");
}

inline void AtomicFile::Commit() {
  if (replaces_ && fchmod(file_, mode_) != 0) FailErrno("cannot get its mode");
  if (fsync(file_) != 0) FailErrno("cannot be synced");
  if (temporary_.empty()) {
    const std::string mine = "/proc/self/fd/" + std::to_string(file_);
    const auto link = [&](const std::string& name) {
      return linkat(AT_FDCWD, mine.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW);
    };
    if (replaces_ || link(target_) != 0) {
      std::string name;
      do {
        name = folder_ + "/" + files::RandomName();
      } while (link(name) != 0 && errno == EEXIST);
      temporary_ = name;
    }
  }
  if (!temporary_.empty() && rename(temporary_.c_str(), target_.c_str()) != 0) {
    FailErrno("cannot be put in place");
  }
  temporary_.clear();
  close(file_);
  file_ = -1;
  // The new name is durable once its folder is.
  const int folder = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
}

inline InputFile::InputFile(const std::string& path) : path_(path) {
  files::CheckPath(path);
  file_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (file_ < 0) files::FailFile(path, std::string("cannot be opened: ") + std::strerror(errno));
  struct stat there;
  const bool known = fstat(file_, &there) == 0;
  if (!known || !S_ISREG(there.st_mode)) {
    close(file_);
    files::FailFile(path, std::string(known ? files::KindOf(there.st_mode) : "cannot be read") +
                              "; it must be a regular file");
  }
  bytes_ = there.st_size;
}

inline InputFile::~InputFile() { close(file_); }

inline void InputFile::Read(uint64_t offset, void* data, size_t bytes) const {
  if (files::Whole(pread, file_, static_cast<char*>(data), bytes, offset)) return;
  files::FailFile(path_, errno == 0 ? std::string("ends too early")
                                    : std::string("cannot be read: ") + std::strerror(errno));
}

}  // namespace accel
