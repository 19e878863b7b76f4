#!/bin/sh
# Static archives, without times or owners.
here=${0%/*}
export ZIG_GLOBAL_CACHE_DIR="${TMPDIR:-/tmp}/zig-cache" ZIG_LOCAL_CACHE_DIR="${TMPDIR:-/tmp}/zig-cache"
exec "$here/ziglang/zig" ar "$@"
