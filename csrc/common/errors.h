// File: errors.h
//
// How the host code of a package fails: by an exception whose message begins with the package's
// name. The shared object (or the test) says that name once, in one source file:
//
//   ACCEL_PACKAGE("hstu_attn")
//   ...
//   accel::Check(k.dim() == 3, "k must have 3 dimensions, got ", k.dim());
//
// throws std::runtime_error("hstu_attn: k must have 3 dimensions, got 2").
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#define ACCEL_PACKAGE(name)      \
  namespace accel {              \
  const char kPackage[] = name;  \
  } /* the semicolon is yours */ \
  static_assert(true, "")

namespace accel {

extern const char kPackage[];

// "hstu_attn: " and the parts.
template <class... Parts>
std::string ErrorText(const Parts&... parts) {
  std::ostringstream text;
  text << kPackage << ": ";
  (text << ... << parts);
  return text.str();
}

// RuntimeError in Python.
template <class... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw std::runtime_error(ErrorText(parts...));
}

// ValueError in Python by way of pybind11. An op's exceptions are RuntimeErrors, all of them.
template <class... Parts>
[[noreturn]] void FailArgument(const Parts&... parts) {
  throw std::invalid_argument(ErrorText(parts...));
}

// Nothing is made of the parts unless the condition is false.
template <class... Parts>
void Check(bool condition, const Parts&... parts) {
  if (!condition) Fail(parts...);
}

template <class... Parts>
void CheckArgument(bool condition, const Parts&... parts) {
  if (!condition) FailArgument(parts...);
}

}  // namespace accel
