"""Importing this imports all that `svp` and what tests start ever import, and runs nothing.

A child that trains would otherwise import a thousand modules of its own: `torch._dynamo` at its first
optimizer, `peft`, TensorBoard.
"""

import gc
import importlib
import os

from svp.train.rehearse.server import import_everything

import_everything()
for name in ("torch._dynamo", "torch.distributed.run", "torch.utils.tensorboard"):
    importlib.import_module(name)
for name in ("eval_world", "sharded_run"):
    importlib.import_module(f"support.{name}")
os.fsync = os.fstat  # as in conftest.py
gc.freeze()  # as at the end of `import_everything`
