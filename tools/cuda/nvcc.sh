#!/bin/sh
# nvcc.sh NVCC HEADERS DEPS UNUSED REPORT ARGUMENT...: one compile. Writes to UNUSED those of the
# files listed in HEADERS that the compiler did not read (DEPS), so that a change of them reruns
# nothing, and to REPORT the registers and spills of each kernel.
set -e
nvcc=$1 headers=$2 deps=$3 unused=$4 report=$5
shift 5
mkdir -p "${TMPDIR:=/tmp}" && export TMPDIR
status=0
"$nvcc" "$@" -MD -MF "$deps" 2> "$report" || status=$?
grep -v '^ptxas info\|^    [0-9]* bytes stack frame' "$report" >&2 || true
[ $status = 0 ] || exit $status
tr -s ' \\' '\n\n' < "$deps" | awk '
  NR == FNR { read[$0] = 1; next }
  !($0 in read)
' - "$headers" > "$unused"
