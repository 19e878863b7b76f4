// File: atomic_file_test.cc
//
// A file of AtomicFile is there wholly or not at all, whoever else writes it or dies.
#include "csrc/common/atomic_file.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "csrc/common/errors.h"
#include "tests/common/expect.h"

ACCEL_PACKAGE("a package");

namespace {

using accel::AtomicFile;
using accel::InputFile;

std::string Contents(const std::string& path) {
  const InputFile file(path);
  std::string text(file.bytes(), ' ');
  file.Read(0, &text[0], text.size());
  return text;
}

void Put(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.Write(0, text.data(), text.size());
  file.Commit();
}

int Entries(const std::string& folder) {
  int count = 0;
  DIR* entries = opendir(folder.c_str());
  while (readdir(entries) != nullptr) ++count;
  closedir(entries);
  return count - 2;  // "." and ".."
}

// Whether a call is refused with these words.
template <class Call>
bool Refused(const std::string& words, Call call) {
  return accel_test::Thrown<std::runtime_error>(call).find(words) != std::string::npos;
}

}  // namespace

int main() {
  const char* base = std::getenv("TEST_TMPDIR");
  std::string folder = std::string(base != nullptr ? base : "/tmp") + "/atomic_file_XXXXXX";
  EXPECT(mkdtemp(&folder[0]) != nullptr);
  const std::string path = folder + "/file";

  {  // Nothing is there before Commit(), and nothing is left without it.
    AtomicFile file(path);
    file.Write(0, "half", 4);
    EXPECT(access(path.c_str(), F_OK) != 0);
  }
  EXPECT(Entries(folder) == 0);

  Put(path, "one");
  EXPECT(Contents(path) == "one");
  {  // Two writers at the same time, in whatever order they end: the last one wins.
    AtomicFile first(path), second(path);
    first.Write(0, "first", 5);
    second.Write(0, "second", 6);
    second.Commit();
    EXPECT(Contents(path) == "second");
    first.Commit();
  }
  EXPECT(Contents(path) == "first");
  EXPECT(Entries(folder) == 1);

  {  // What was written can be read, at any offset.
    AtomicFile file(path);
    file.Write(4, "56", 2);
    file.Write(0, "1234", 4);
    char back[6];
    file.Read(0, back, 6);
    EXPECT(std::string(back, 6) == "123456");
  }

  const std::string stale = folder + "/.accel-00000000000000ff.tmp";
  std::fclose(std::fopen(stale.c_str(), "w"));
  chmod(path.c_str(), 0640);
  Put(path, "two");
  EXPECT(access(stale.c_str(), F_OK) != 0);
  struct stat there;
  EXPECT(stat(path.c_str(), &there) == 0 && (there.st_mode & 0777) == 0640);

  const std::string link = folder + "/link";
  EXPECT(symlink("file", link.c_str()) == 0);
  Put(link, "three");
  EXPECT(lstat(link.c_str(), &there) == 0 && S_ISLNK(there.st_mode));
  EXPECT(Contents(path) == "three");

  const std::string pipe = folder + "/pipe";
  EXPECT(mkfifo(pipe.c_str(), 0600) == 0);
  EXPECT(Refused("is a pipe", [&] { AtomicFile file(pipe); }));
  EXPECT(Refused("is a pipe", [&] { InputFile file(pipe); }));
  EXPECT(Refused("is a device", [&] { AtomicFile file("/dev/null"); }));
  EXPECT(Refused("is a folder", [&] { AtomicFile file(folder); }));
  EXPECT(Refused("cannot be created", [&] { AtomicFile file(folder + "/absent/file"); }));
  EXPECT(Refused("cannot be opened", [&] { InputFile file(folder + "/absent"); }));
  EXPECT(Refused("NUL", [&] { AtomicFile file(path + std::string("\0x", 2)); }));
  char byte;
  EXPECT(Refused("ends too early", [&] { InputFile(path).Read(100, &byte, 1); }));
  Put(folder + "/" + std::string(255, 'x'), "long");
  EXPECT(Entries(folder) == 4);
  return accel_test::Failures();
}
