// File: large_pages_test.cc
//
// large_pages.h: what memory holds stays, wherever it begins, and neighbours are not asked for.
#include "csrc/common/large_pages.h"

#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/common/expect.h"

namespace {

// How many bytes of [begin, begin + bytes) have the kernel's mark of large pages.
size_t Marked(const char* begin, size_t bytes) {
  std::ifstream maps("/proc/self/smaps");
  const auto from = reinterpret_cast<uintptr_t>(begin);
  uintptr_t low = 0, high = 0;
  size_t marked = 0;
  for (std::string line; std::getline(maps, line);) {
    char dash = 0;
    std::istringstream words(line);
    uintptr_t first = 0, last = 0;
    if (words >> std::hex >> first >> dash >> last && dash == '-') low = first, high = last;
    if (line.rfind("VmFlags:", 0) != 0 || (line + " ").find(" hg ") == std::string::npos) continue;
    const uintptr_t a = low > from ? low : from, b = high < from + bytes ? high : from + bytes;
    if (a < b) marked += b - a;
  }
  return marked;
}

}  // namespace

int main() {
  constexpr size_t kPage = 1 << 21, kBytes = 20 * kPage;
  auto* const all = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT(all != MAP_FAILED);
  std::memset(all, 7, kBytes);

  accel::InLargePages(all + 100, (size_t{1} << 25) - 1);  // too small to be worth it
  EXPECT(Marked(all, kBytes) == 0);

  char* const begin = all + 4096;
  const size_t bytes = kBytes - 4096 - 3 * 4096;
  accel::InLargePages(begin, bytes);
  const size_t marked = Marked(all, kBytes);
  EXPECT(marked == 0 || marked >= bytes - 2 * kPage);  // 0: a kernel without them
  EXPECT(Marked(all, 4096) == 0);
  EXPECT(Marked(all + kBytes - 3 * 4096, 3 * 4096) == 0);
  bool same = true;
  for (size_t i = 0; i < kBytes; ++i) same = same && all[i] == 7;
  EXPECT(same);
  munmap(all, kBytes);
  return accel_test::Failures();
}
