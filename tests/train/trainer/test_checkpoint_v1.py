"""T17: a version-1 checkpoint in the repository must load for ever, to the bit.

Made once by tests/support/make_checkpoint_v1.py; never make it again under the same version.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from support import FIXTURES
from support.make_checkpoint_v1 import STATE as MADE
from support.make_checkpoint_v1 import tensors
from svp.pipeline.errors import WeightsError
from svp.train.trainer.checkpoint import STATE, Checkpoint

FOLDER = FIXTURES / "checkpoint_v1" / "step-00000003"


def test_it_still_reads_to_the_bit() -> None:
    found = Checkpoint.open(FOLDER)
    weights, optimizer = tensors()
    assert found.state.model_copy(update={"files": {}}) == MADE
    for read, made in ((found.weights(), weights), (found.optimizer(), optimizer)):
        assert read.keys() == made.keys()
        assert all(torch.equal(read[name], made[name]) for name in made)
    found.require(dict(MADE.recipe), MADE.data)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "step-00000003")
    path = tmp_path / "step-00000003" / STATE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(WeightsError, match="checkpoint schema 2, this svp reads 1: resume with"):
        Checkpoint.open(path.parent)
