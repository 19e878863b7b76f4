// Hidden copies of the few libstdc++ symbols that newer headers reference and manylinux_2_28
// (GLIBCXX <= 3.4.24, GLIBC <= 2.28) does not have. Linked into every shared object.
#include <new>
#include <sstream>

// GLIBCXX_3.4.26: the default constructors.
template std::basic_ostringstream<char>::basic_ostringstream();
template std::basic_stringstream<char>::basic_stringstream();
template std::basic_istringstream<char>::basic_istringstream();

#if defined(_GLIBCXX_RELEASE) && _GLIBCXX_RELEASE >= 11
namespace std {
// GLIBCXX_3.4.29
__attribute__((noreturn)) void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std

// GLIBC_2.32. 0 says that threads may exist: reference counts stay atomic.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
#endif
