#!/usr/bin/env bash
# long_test.sh K_SPARSITY V_SPARSITY MODEL_FOLDER MODE [DATA_FOLDER]: predictions and their scores.
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: $0 K_SPARSITY V_SPARSITY MODEL_FOLDER MODE [DATA_FOLDER]" >&2; exit 2; }
here=$(dirname "$0")
where=$(python "$here/pred_long_bench.py" --k_sparsity "$1" --v_sparsity "$2" ${3:+--model "$3"} \
  --mode "$4" ${5:+--data "$5"} | tail -1)
python "$here/eval_long_bench.py" --model "$(basename "$where")" --out "$(dirname "$where")"
