"""The whole collection at one version: ``pip install accelerated-modules`` brings every package.

>>> import accelerated_modules
>>> accelerated_modules.problems()  # one sentence for each
[]

Importing this package imports none of the others. It compares the installed versions, and says in
one sentence what does not fit together and what to do.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version

from accelerated_modules.report import problems, show_versions

__version__ = version("accelerated-modules")
__all__ = ["__version__", "problems", "show_versions"]

for _problem in problems():
    warnings.warn(_problem, RuntimeWarning, stacklevel=2)
