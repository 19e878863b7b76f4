"""docs/mustafar.md answers for every file that older scripts have; its drawing is as drawn."""

from __future__ import annotations

import re
import runpy

from tools.lint import tree

NAMES = """build_kernels.sh Makefile setup.py libSpMM_API.so setup_paths.py mustafar_package
compression attention_kernel_test_correct.py mustafar_latency_validation.py mem_spd_test.py
pred_long_bench.py
eval_long_bench.py long_test.sh SpMM_API SpMM_Kernel MMA_PTX AsyncCopy_PTX Reduction_Kernel
MatMulUtilities TilingConfig pybind.cpp mustafar_wrapper models/llama_mustafar_kernel.py
mistral_mustafar_Kt_Mag_Vt_Mag.py llama_think.py llama_thinv.py utils/ config/ longbench/ figs/
PROJECT_STRUCTURE.md requirements.txt"""


def test_every_file_has_a_row_that_says_what_is_here_instead() -> None:
    page = (tree.root() / "docs/mustafar.md").read_text().partition("| there | here |")[2]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", page, re.MULTILINE)
    for name in NAMES.split():
        assert any(name in there and here for there, here in rows), name


def test_the_drawing_is_what_its_script_draws() -> None:
    drawn = runpy.run_path(str(tree.root() / "docs/draw_mustafar.py"))["drawing"]()
    assert drawn == (tree.root() / "docs/mustafar_layout.svg").read_text()
