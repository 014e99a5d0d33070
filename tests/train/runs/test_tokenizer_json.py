"""Folders in GLaMM's and LISA's layout with `tokenizer.json` alone: imported, trained, asked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from svp.model.conversion.key_mapping import LAYOUTS
from svp.model.conversion.stand_in import write_standin, write_words
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.data.tokenizer import load_vocabulary
from svp.train.evaluation.results import read_results
from svp.train.options import TrainFlags
from svp.train.runs import inputs
from svp.train.runs.evaluate import EvalRequest, eval_command
from svp.train.runs.inputs import DataRequest, TrainRequest
from svp.train.runs.predict import PredictRequest, predict_command
from svp.train.runs.train import train_command

pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
IDS = {
    "glamm": {"<im_start>": 32000, "<im_end>": 32001, "<bbox>": 32002, "<point>": 32003,
              "[SEG]": 32004, "<p>": 32005, "</p>": 32006},
    "lisa": {"<im_patch>": 32000, "<im_start>": 32001, "<im_end>": 32002, "[SEG]": 32003},
}  # fmt: skip
RECIPE = """
name: words
model: {init: given, vision: {encoder: tiny, size: 128}, projector: {name: mlp}, dtype: float32}
stages: [{name: align, steps: 1, warmup: 0}]
global_batch: 1
run: {micro_batch: 1, gradient_checkpointing: false, keep: 1, log: 1, preview: 0, threads: 1}
"""
SETTINGS = "folder: .\nsam: {vit_h: [64, 1]}\nencoder_width: 64\nin_process: true\n"


def only_json(folder: Path, layout: str, stated: bool) -> Path:
    """The folder's tokenizer as `tokenizer.json`; its added tokens in there too, or beside it."""
    made = load_vocabulary(folder, LAYOUTS[layout]).tokenizer
    for name in ("tokenizer.model", "special_tokens_map.json", "tokenizer_config.json"):
        (folder / name).unlink()
    made.backend_tokenizer.save(str(folder / "tokenizer.json"))
    if stated:
        (folder / "added_tokens.json").unlink()
        return folder
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [row for row in content["added_tokens"] if row["id"] < 3]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and a cache of their train split with embeddings of a narrow ViT-H."""
    root = tmp_path_factory.mktemp("world")
    (root / "dial.yaml").write_text(SETTINGS)
    (root / "recipe.yaml").write_text(RECIPE)
    data = write_scenes(root / "scenes", images=2, seed=0, splits={"train": 2})
    flags = Flags(superpixels="slic", sam_model="vit_h", sam_weights="random:0",
                  store_sam_embeddings=True)  # fmt: skip
    request = Request(
        dataset=str(data), split="train", out=root / "cache", flags=flags, quiet=True,
        run=RunOptions(workers=0),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVP_REHEARSAL", str(root / "dial.yaml"))
        launch(request, open_request(request))
    return root


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("layout", IDS)
def test_ids_of_the_added_tokens(layout: str, stated: bool, tmp_path: Path) -> None:
    write_words(tmp_path, LAYOUTS[layout])
    whole = load_vocabulary(tmp_path, LAYOUTS[layout])
    only_json(tmp_path, layout, stated)
    assert not list(tmp_path.glob("*.model"))
    vocab = load_vocabulary(tmp_path, LAYOUTS[layout])
    known = vocab.tokenizer.get_vocab()
    assert {token: known[token] for token in IDS[layout]} == IDS[layout]
    assert (vocab.size, vocab.wording.name) == (32000 + len(IDS[layout]), layout)
    assert vocab.encode("the  red cup, left") == whole.encode("the  red cup, left")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("layout", "stated"), [("glamm", False), ("lisa", True)])
def test_a_step_an_evaluation_and_an_answer(
    layout: str, stated: bool, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVP_REHEARSAL", str(world / "dial.yaml"))
    monkeypatch.setattr(inputs, "TABLES", tmp_path / "tables")
    models = [write_standin(tmp_path / name, layout, vision=64) for name in ("model", "json")]
    only_json(models[1], layout, stated)
    data = DataRequest(dataset=str(world / "scenes"))
    losses, masks = [], []
    for folder in models:
        asked = TrainRequest(
            recipe_file=world / "recipe.yaml", caches=(world / "cache",), data=data,
            flags=TrainFlags(init=str(folder)), runs=tmp_path / f"runs-{folder.name}", device="cpu",
        )  # fmt: skip
        run = train_command(asked).folder
        losses.append(json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"])
        request = EvalRequest(
            data=data, split="train", caches=(world / "cache",), checkpoint=run, device="cpu",
            limit=1, bounds=False,
        )  # fmt: skip
        untrained = Path("random")
        as_it_is = EvalRequest(
            data=data, split="train", published=str(folder), sam_weights=untrained, limit=1,
            encoder_weights=untrained, device="cpu", runs=tmp_path / f"as-{folder.name}", size="tiny",
        )  # fmt: skip
        rows = []
        for asking in (request, as_it_is):
            AcceleratorState._reset_state(True)  # the published folder is evaluated in bfloat16
            (path,) = eval_command(asking).files
            rows += read_results(path).rows
        AcceleratorState._reset_state(True)
        masks.append([(row.text, row.mask) for row in rows])
    assert losses[0] == losses[1] and np.isfinite(losses[0])
    assert masks[0] == masks[1] and masks[0]
    photo = next((world / "scenes" / "images").rglob("*.*"))
    ask = PredictRequest(images=photo, expressions=("the red disc",), checkpoint=run, device="cpu",
                         out=tmp_path / "out", size="tiny")  # fmt: skip
    (mask,) = masks(predict_command(ask))
    assert mask.ndim == 2 and (tmp_path / "out" / f"{photo.stem}.json").is_file()
    shutil.rmtree(tmp_path)
