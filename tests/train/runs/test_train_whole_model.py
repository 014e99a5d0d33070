"""A run that trains the language model itself, with the command's own road: its export loads."""

from pathlib import Path

import pytest
import torch

from svp.model.pretrained import load_pretrained
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.options import TrainFlags
from svp.train.runs import inputs
from svp.train.runs.export import ExportRequest, export_command
from svp.train.runs.inputs import DataRequest, TrainRequest
from svp.train.runs.train import train_command
from svp.train.trainer.checkpoint import checkpoints

RECIPE = """
name: whole
model:
  init: none
  lm: random:0
  sam_decoder: shipped
  shape: {hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}
  vision: {encoder: tiny, size: 128}
  projector: {name: mlp}
stages:
  - {name: all, steps: 2, warmup: 0,
     trains: [projector, embedding, lm_head, to_prompt, mask_decoder, lm]}
global_batch: 1
run: {micro_batch: auto, gradient_checkpointing: auto, preview: 0, log: 1, threads: 1}
"""


def test_its_export_is_float32_and_has_the_trained_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "TABLES", tmp_path / "tables")
    write_scenes(tmp_path / "scenes", images=1, seed=3, splits={"train": 1})
    request = precompute.Request(
        dataset=str(tmp_path / "scenes"), split="train", out=tmp_path / "cache", quiet=True,
        flags=Flags(superpixels="slic", sam_model="tiny", store_sam_embeddings=True),
        run=RunOptions(workers=0),
    )  # fmt: skip
    precompute.launch(request, precompute.open_request(request))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    asked = TrainRequest(
        recipe_file=tmp_path / "recipe.yaml", caches=(tmp_path / "cache",), runs=tmp_path / "runs",
        data=DataRequest(dataset=str(tmp_path / "scenes")), flags=TrainFlags(), device="cpu",
    )  # fmt: skip
    run = train_command(asked).folder
    trained = checkpoints(run / "checkpoints")[-1].weights()
    export_command(ExportRequest(out=tmp_path / "model", checkpoint=run, cache=tmp_path / "cache"))
    own = dict(load_pretrained(tmp_path / "model").named_parameters())
    assert sum(name.startswith("lm.model.layers.") for name in trained) == 9
    for name, value in trained.items():
        assert own[name].dtype == value.dtype == torch.float32
        assert torch.equal(own[name], value)
