#!/bin/sh
# nvcc.sh MEASURE COST NVCC HEADERS DEPS UNUSED REPORT ARGUMENT...: one compile. Writes to UNUSED
# those of the files listed in HEADERS that the compiler did not read (DEPS), so that a change of
# them reruns nothing, to REPORT the registers and spills of each kernel, and to COST its CPU time
# and memory (measure.cc), for the compile report alone.
set -e
measure=$1 cost=$2 nvcc=$3 headers=$4 deps=$5 unused=$6 report=$7
shift 7
mkdir -p "${TMPDIR:=/tmp}" && export TMPDIR
status=0
"$measure" "$cost" "$nvcc" "$@" -MD -MF "$deps" 2> "$report" || status=$?
grep -v '^ptxas info\|^    [0-9]* bytes stack frame' "$report" >&2 || true
[ $status = 0 ] || exit $status
# nvcc says ./a/b.h and a/../a/b.h where Bazel says a/b.h.
tr -s ' \\' '\n\n' < "$deps" | awk '
  NR == FNR {
    gsub(/\/(\.\/)+/, "/"); sub(/^(\.\/)+/, "")
    while (sub(/[^\/.][^\/]*\/\.\.\//, "")) {}
    read[$0] = 1
    next
  }
  !($0 in read)
' - "$headers" > "$unused"
