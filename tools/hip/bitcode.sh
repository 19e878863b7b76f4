#!/bin/sh
# bitcode.sh ZIG ARGUMENT...: zig's clang with the standard headers of its C++ toolchain, which are all
# that a kernel may include beside the project's own. No header of HIP is there.
set -e
zig=$1 cc=${1%/ziglang/zig}
shift
. "$cc/compiler.sh"
if [ -n "$COMPILER" ]; then
  std=$("$COMPILER" -E -x c++ -v /dev/null 2>&1 | sed -n '/^#include </,/^End/s/^ / -isystem /p')
else
  std="-isystem $cc/sysroot/usr/include/c++/10 -isystem $cc/sysroot/usr/include/x86_64-linux-gnu/c++/10"
  real=$(readlink -f "$zig")  # whose folder no sandbox has
  for own in include libc/include/x86_64-linux-gnu libc/include/generic-glibc \
    libc/include/x86-linux-any libc/include/any-linux-any; do
    std="$std -isystem ${real%/zig}/lib/$own"
  done
fi
# shellcheck disable=SC2086 # words
exec "$zig" clang -nostdinc $std "$@"
