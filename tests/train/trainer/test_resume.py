"""What is said of a folder that holds no checkpoint."""

from pathlib import Path

import pytest
import torch

from svp.pipeline.errors import MissingError, PlanMismatchError, WeightsError
from svp.train.trainer.checkpoint import OPTIMIZER, State, save_checkpoint
from svp.train.trainer.resume import named_checkpoint, open_same


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_a_damaged_export_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        named_checkpoint(tmp_path)


def test_a_published_folder_is_told_its_option(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="a run folder with one in it$"):
        named_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(MissingError, match="model_type llava.*--published or --init"):
        named_checkpoint(tmp_path)


def test_a_process_that_reads_another_checkpoint_of_the_name_refuses(tmp_path: Path) -> None:
    """What another process resumes is named by its digest, not by its path."""
    state = State.model_validate(
        {"schema_version": 1, "step": 3, "stage": 0, "stage_step": 3, "recipe": {}, "data": {},
         "cursor": {}, "world": 2, "micro_batch": 1}
    )  # fmt: skip
    tensors = {"a": torch.zeros(2)}
    made = save_checkpoint(tmp_path, state, tensors, tensors)
    opened = open_same(str(made.path), 3, made.digest)
    assert opened == made
    with pytest.raises(PlanMismatchError, match="step 3 that process 0 resumes.*another one here"):
        open_same(str(made.path), 3, "0" * 64)
    (made.path / OPTIMIZER).unlink()
    with pytest.raises(MissingError, match="cannot be read here.*--runs, or copy it"):
        open_same(str(made.path), 3, made.digest)
