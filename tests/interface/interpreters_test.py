"""In a sub-interpreter a package is refused in one sentence, where it used to hang."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.common.processes import python

MODULE = "_interpreters" if find_spec("_interpreters") else "_xxsubinterpreters"
CODE = """
import {module} as interpreters
run = getattr(interpreters, "exec", None) or interpreters.run_string
code = '''
try:
    import {package}
except ImportError as error:
    print(error)
'''
run(interpreters.create(), code)
"""


@pytest.mark.skipif(not find_spec(MODULE), reason="this Python makes no sub-interpreters")
@pytest.mark.parametrize("package", ["hkv", "hstu_attn"])
def test_a_sub_interpreter_is_refused(package: str) -> None:
    done = python("-c", CODE.format(module=MODULE, package=package))
    assert done.returncode == 0, done.stderr
    words = f"{package} is being imported in a sub-interpreter; it must be imported in the main"
    assert done.stdout.startswith(words)
