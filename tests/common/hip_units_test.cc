// File: hip_units_test.cc
//
// hip_units.h: the code objects of a bundle, without the host's entry.
#include "csrc/common/hip_units.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/common/expect.h"

namespace {

void Append(std::string* to, uint64_t number) {
  to->append(reinterpret_cast<const char*>(&number), sizeof(number));
}

// clang's offload bundle of entries and their data, as its documentation describes it.
std::string Bundle(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string head = "__CLANG_OFFLOAD_BUNDLE__", data;
  uint64_t offset = head.size() + 8;
  for (const auto& [name, held] : entries) offset += 24 + name.size();
  Append(&head, entries.size());
  for (const auto& [name, held] : entries) {
    Append(&head, offset + data.size());
    Append(&head, held.size());
    Append(&head, name.size());
    head += name;
    data += held;
  }
  return head + data;
}

std::vector<accel::HipObject> Objects(const std::string& bundle) {
  return accel::HipObjects(reinterpret_cast<const unsigned char*>(bundle.data()));
}

}  // namespace

int main() {
  const std::string device = "hipv4-amdgcn-amd-amdhsa--";
  const std::string bundle = Bundle({{"host-x86_64-unknown-linux--", ""},
                                     {device + "gfx942", std::string("\x7f"
                                                                     "ELF\0a",
                                                                     6)},
                                     {device + "gfx1100", "another"}});
  const auto objects = Objects(bundle);
  EXPECT(objects.size() == 2);
  EXPECT(objects[0].gpu == "gfx942" && objects[0].size == 6);
  EXPECT(std::memcmp(objects[0].data,
                     "\x7f"
                     "ELF\0a",
                     6) == 0);
  EXPECT(objects[1].gpu == "gfx1100" && objects[1].size == 7);
  EXPECT(std::memcmp(objects[1].data, "another", 7) == 0);
  EXPECT(Objects(Bundle({{"host-x86_64-unknown-linux--", ""}})).empty());
  EXPECT(Objects(Bundle({})).empty());
  return accel_test::Failures();
}
