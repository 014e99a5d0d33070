"""Every projector's run, exported: the folder alone does all that the run did.

One cache, one random language model and one step of each stage serve all projectors. Run and caches
are gone when an export is tried.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import svp as package
from support.commands import svp
from svp.model.pretrained import load_pretrained
from svp.model.pretrained.config import read_model_file
from svp.model.projectors import PROJECTORS
from svp.model.ris import RisModel
from svp.pipeline.cache.plan import Plan
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError
from svp.train.evaluation.results import read_results
from svp.train.factory import assemble
from svp.train.metrics import metrics
from svp.train.options import TrainFlags, resolve_train
from svp.train.runs.export import _push

SSPE = {"num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1, "sspe_ffn": 16,
        "ssa_heads": 2, "ssa_blocks": 1, "ssa_ffn": 16, "mlp_hidden": 16}  # fmt: skip
WINDOW = {"r": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "pixel_shuffle": WINDOW,
    "c_abstractor": {"hidden": 32, "depth": 1, "out_grid": [4, 4]},
    "d_abstractor": {"d_model": 32, "layers": 1, "ffn": 32, "out_grid": [4, 4]},
    "deco": {"out_grid": [4, 4]},
    "ldpv2": {"out_grid": [4, 4]},
    "tokenpacker": {"embed_dim": 32, **WINDOW},
    "pvtc": WINDOW,
    "qformer": {"hidden": 32, "layers": 1, "heads": 2, "ffn": 32, "tokens": 4},
    "svp": SSPE,
    "fusion": {"svp": SSPE},
    "divt": {"embed_dim": 16, "heads": 2},
    "tome": {"tokens": 4},
    "divprune": {"tokens": 4},
    "random_patches": {"tokens": 4},
    "payn": {"tokens": 4},
    "mqt": {"side": 4, "heads": 4},
    "m3": {"sides": [1, 2, 4]},
    "adatok": {},
}
EXPRESSION = "the red disc"


def recipe(projector: str) -> list[str]:
    """`--set` words: one step of each stage, the second so long that its adapters are seen."""
    assignments = (
        "model.shape={hidden: 16, intermediate: 24, layers: 1, heads: 2, kv_heads: 2}",
        f"model.projector={json.dumps({'name': projector, 'options': OPTIONS[projector]})}",
        "stages.0={name: align, steps: 1, warmup: 0, lr: 0.001, add_sspe: false}",
        "stages.1={name: finetune, steps: 1, warmup: 0, lr: 0.3, lora: true, trains: [projector]}",
        "global_batch=2",
        "run={micro_batch: 2, gradient_checkpointing: false, preview: 0}",
    )
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes and a cache of each split that holds what any projector reads."""
    root = tmp_path_factory.mktemp("all")
    write_scenes(root / "scenes", images=4, seed=9, splits={"train": 2, "val": 2})
    for split in ("train", "val"):
        svp("precompute", "--split", split, "--dataset", str(root / "scenes"), "--workers", "0",
            "--points-per-side", "4", "--projector", "tokenpacker", "--set", "features.cls=true",
            "--quiet", "--out", str(root / "caches" / split))  # fmt: skip
    return root


@dataclass(frozen=True)
class Tried:
    """An export whose run and caches are gone, and what the run answered before.

    logits  (H,W) float32 of EXPRESSION in `photo`
    giou    of the split val
    """

    projector: str
    adapter: str
    folder: Path
    photo: Path
    logits: torch.Tensor
    giou: float
    plan: Plan


QUICK = ("svp", "deco", "divt")  # the method, a compressive projector, one that counts by features
ROWS = [
    pytest.param((name, "merged"), id=name, marks=() if name in QUICK else pytest.mark.slow)
    for name in PROJECTORS
]
ROWS.append(pytest.param(("svp", "separate"), id="svp-separate"))


@pytest.fixture(scope="module", params=ROWS)
def tried(
    request: pytest.FixtureRequest, caches: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tried]:
    projector, adapter = request.param
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    shutil.copytree(caches / "caches", before / "caches")
    photo = min((caches / "scenes").rglob("val*.png"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(before)
        svp("train", "--from-cache", "caches/train", "--lm", "random:0", "--sam-decoder", "random:0",
            "--device", "cpu", *recipe(projector))  # fmt: skip
        (run,) = Path("runs").iterdir()
        plan = Plan.load(Path("caches/val"))
        asked = logits(run, photo)
        found = evaluate("caches/val")
        svp("export", "made", "--adapter", adapter)
        folder = after / "elsewhere" / "model"
        folder.parent.mkdir()
        shutil.move("made", folder)
        shutil.rmtree(before)
        patch.chdir(after)
        yield Tried(projector, adapter, folder, photo, asked, found, plan)


def logits(model: Path, photo: Path) -> torch.Tensor:
    """What `svp predict` says of EXPRESSION in `photo`, before its mask is cut at 0."""
    seen: list[torch.Tensor] = []
    drawn = RisModel.drawn

    def listen(*words: Any) -> list[torch.Tensor]:
        found = drawn(*words)
        seen.append(found[0])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RisModel, "drawn", listen)
        svp("predict", str(photo), EXPRESSION, "--checkpoint", str(model), "--device", "cpu",
            "--out", "answers")  # fmt: skip
    mask = np.asarray(Image.open(Path("answers") / f"{photo.stem}-1-mask.png")) > 0
    (only,) = seen
    assert (mask == (only > 0).numpy()).all()
    return only


def evaluate(cache: str, *words: str) -> float:
    """gIoU of the split val, from the file that `svp eval` wrote."""
    out = Path("results.jsonl")
    svp("eval", "--split", "val", "--from-cache", cache, "--no-bounds", "--limit", "1",
        "--device", "cpu", "--out", str(out), *words)  # fmt: skip
    found = metrics(read_results(out).counts)["gIoU"]
    out.unlink()
    return found


def test_every_projector_is_tried() -> None:
    assert set(OPTIONS) == set(PROJECTORS)


def test_it_loads(tried: Tried) -> None:
    model = load_pretrained(tried.folder)
    assert isinstance(model, RisModel)
    assert type(model.projector) is PROJECTORS[tried.projector]
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


def test_its_files_are_whole_and_can_be_read_by_others(tried: Tried) -> None:
    umask = os.umask(0)
    os.umask(umask)
    files = [path for path in tried.folder.rglob("*") if path.is_file()]
    modes = {str(path.relative_to(tried.folder)): path.stat().st_mode & 0o777 for path in files}
    whole = {"config.json", "model.safetensors", "svp.json", "svp.safetensors", "README.md"}
    assert {*whole, "tokenizer.json"} <= modes.keys()
    assert ("adapter/adapter_model.safetensors" in modes) == (tried.adapter == "separate")
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_it_carries_its_preprocessing(tried: Tried) -> None:
    about = read_model_file(tried.folder)
    assert about.preprocessing is not None and about.preprocessing.recipe == tried.plan.recipe


def test_it_opens_without_svp(tried: Tried, tmp_path: Path) -> None:
    """By transformers, peft and the lines of docs/integration.md, where `svp` cannot be imported."""
    if tried.adapter != "separate":
        pytest.skip("one process is enough: the merged model lacks the adapter alone")
    model = load_pretrained(tried.folder)
    torch.manual_seed(3)
    head, embeds = model.mask_head, torch.randn(1, 9, model.lm.config.hidden_size)
    sam = torch.randn(1, head.width, *head.prompt_encoder.image_embedding_size)
    one: Any = SimpleNamespace(filled=torch.tensor([0]), place=torch.tensor([0]))
    with torch.no_grad():
        states = model.lm.model(inputs_embeds=embeds).last_hidden_state
        want = {
            "logits": model.lm.lm_head(states),
            "masks": head(model.to_prompt(states[:, 6]), one, sam)[None],
        }
    save_file({"embeds": embeds, "sam": sam, **want}, tmp_path / "want.safetensors")
    page = (Path(package.__file__).parent / "docs" / "integration.md").read_text("utf-8")
    block = next(b for b in page.split("```python\n") if "def open_export" in b).split("```")[0]
    (tmp_path / "alone.py").write_text(_ALONE.format(block=block))
    words = [sys.executable, "alone.py", str(tried.folder), "want.safetensors"]
    subprocess.run(words, cwd=tmp_path, check=True)


_ALONE = """import sys
sys.modules["svp"] = None  # what is imported now fails
{block}
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoTokenizer

folder, want = Path(sys.argv[1]), load_file(sys.argv[2])
lm, parts = open_export(folder)
plain = lm(inputs_embeds=want["embeds"]).logits
lm = PeftModel.from_pretrained(lm, folder / "adapter").eval()
with torch.no_grad():
    logits = lm(inputs_embeds=want["embeds"]).logits
    masks = mask_logits(lm.base_model.model, parts, want["embeds"], 7, want["sam"])
torch.testing.assert_close(logits, want["logits"], rtol=1e-5, atol=1e-6)
torch.testing.assert_close(masks, want["masks"], rtol=1e-4, atol=1e-5)
assert not torch.allclose(plain, want["logits"], rtol=1e-4, atol=1e-5)
assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("[SEG]") < len(logits[0, 0])
"""


def test_an_export_is_pushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--push` makes a private repository; what the hub refuses leaves the folder."""
    calls: list[Any] = []

    class Hub:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, name: str, **options: Any) -> str:
            calls.append((name, options))
            if name == "me/refused":
                raise OSError("no token\nsee the manual")
            return f"https://hub/{name}"

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            calls.append((repo_id, folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert _push(tmp_path, "me/model") == "https://hub/me/model"
    assert calls == [("me/model", {"private": True, "exist_ok": True}), ("me/model", tmp_path)]
    with pytest.raises(ConfigError, match=r"--push me/refused: no token; the model is in "):
        _push(tmp_path, "me/refused")


def test_it_answers_as_its_run_did(tried: Tried) -> None:
    """Merged adapters round by 1e-7; one that is left out moves logits by 3e-3, SSPE by 4e-5."""
    found = logits(tried.folder, tried.photo)
    torch.testing.assert_close(found, tried.logits, rtol=0, atol=5e-6)
    assert 0 < (found > 0).sum() < found.numel(), "there is a mask to compare"


def test_it_is_evaluated_as_its_run_was(tried: Tried, caches: Path) -> None:
    words = ("--checkpoint", str(tried.folder))
    found = evaluate(str(caches / "caches" / "val"), *words)
    assert found == pytest.approx(tried.giou, abs=2e-3)


def test_training_goes_on_from_it(tried: Tried, caches: Path) -> None:
    cache = caches / "caches" / "train"
    words = recipe(tried.projector)
    flags = TrainFlags(init=str(tried.folder))
    asked, places = resolve_train(None, None, flags, [w for w in words if w != "--set"])
    made = assemble(asked, Plan.load(cache), places).model
    own = load_pretrained(tried.folder)
    for part in ("projector", "to_prompt", "mask_head"):
        theirs = own.get_submodule(part).state_dict()
        torch.testing.assert_close(
            dict(made.get_submodule(part).state_dict()), dict(theirs), rtol=0, atol=0
        )
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(made.lm(ids).logits, own.lm(ids).logits, rtol=0, atol=5e-6)
    svp("train", "--init", str(tried.folder), "--from-cache", str(cache), "--device", "cpu", *words)
    (checkpoints,) = Path("runs").glob("*/checkpoints")
    assert any(checkpoints.iterdir())
