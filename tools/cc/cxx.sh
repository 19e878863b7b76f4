#!/bin/sh
# The C++ compiler and linker of the toolchain, and nvcc's host compiler. Code is compiled for
# glibc 2.28 against libstdc++ 10 by zig's clang, or by the machine's g++ (compiler.sh says which);
# zig links in both cases, which is what makes the result manylinux_2_28.
set -e
here=${0%/*}
. "$here/compiler.sh"
zig=$here/ziglang/zig
export ZIG_GLOBAL_CACHE_DIR="${TMPDIR:-/tmp}/zig-cache" ZIG_LOCAL_CACHE_DIR="${TMPDIR:-/tmp}/zig-cache"
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
# with the repository (fetch.bzl). A copy, as zig locks it.
made=$(readlink -f "$zig")
made=${made%/ziglang/zig}/zig-cache
cache=${TMPDIR:-/tmp}/zig-links
if [ -d "$made" ] && ! [ -d "$cache" ]; then
  cp -r "$made" "$cache.$$"
  mv -T "$cache.$$" "$cache" 2>/dev/null || rm -rf "$cache.$$" # another link was first
fi
export ZIG_GLOBAL_CACHE_DIR="$cache" ZIG_LOCAL_CACHE_DIR="$cache"
lib=$here/sysroot
# By path: asked for -lstdc++ zig would link its own libc++.
exec "$zig" cc $target "$@" \
  ${LIBS:-"$lib/usr/lib/x86_64-linux-gnu/libstdc++.so.6" "$lib/lib/x86_64-linux-gnu/libgcc_s.so.1"} \
  -lpthread -ldl -lrt -lm
