"""Trains a retrieval model described by a gin file.

torchrun --nproc_per_node=1 examples/hstu/pretrain_gr_retrieval.py --gin-config-file=FILE
"""

from __future__ import annotations

import sys

from hstu_training.pretrain_gr_retrieval import main

if __name__ == "__main__":
    sys.exit(main())
