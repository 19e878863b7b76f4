#!/bin/sh
# The C++ compiler and linker of the toolchain, and nvcc's host compiler. Code is compiled for
# glibc 2.28 against libstdc++ 10 by zig's clang, or by the machine's g++ (compiler.sh says which);
# zig links in both cases, which is what makes the result manylinux_2_28.
set -e
here=${0%/*}
. "$here/compiler.sh"
zig=$here/ziglang/zig
cache=${TMPDIR:-/tmp}/zig-cache
export ZIG_GLOBAL_CACHE_DIR="$cache" ZIG_LOCAL_CACHE_DIR="$cache"
target='-target x86_64-linux-gnu.2.28'

compile=
for arg; do
  case $arg in -c | -E | -S | -dM) compile=1 ;; esac
done

if [ -n "$compile" ] && [ -n "$COMPILER" ]; then
  exec "$COMPILER" "$@"
elif [ -n "$compile" ]; then
  std=$here/sysroot/usr/include
  # zig puts its libc headers before -isystem, so that #include_next needs libstdc++ by -I.
  exec "$zig" c++ $target -nostdinc++ "-I$std/c++/10" "-I$std/x86_64-linux-gnu/c++/10" \
    -fno-sanitize=undefined -g0 "$@"
fi

# What zig makes of its own sources for a link (glibc's stubs, compiler-rt: 19 CPU-seconds) was made
# with the repository (fetch.bzl). A copy, as zig locks it; without it zig makes all of it again.
made=$(readlink -f "$zig")
made=${made%/ziglang/zig}/zig-cache
[ -d "$cache" ] || ! [ -d "$made" ] || cp -r "$made" "$cache"
lib=$here/sysroot
# By path: asked for -lstdc++ zig would link its own libc++.
exec "$zig" cc $target "$@" \
  ${LIBS:-"$lib/usr/lib/x86_64-linux-gnu/libstdc++.so.6" "$lib/lib/x86_64-linux-gnu/libgcc_s.so.1"} \
  -lpthread -ldl -lrt -lm
