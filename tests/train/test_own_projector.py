"""The documentation's projector, a file of its own, goes through the command line as a plug-in."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import svp
from support import forked
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions

DOCS = Path(svp.__file__).parent / "docs" / "projectors.md"
SMALL = (
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0={name: align, steps: 1, warmup: 0, add_sspe: false}",
    "stages.1={name: finetune, steps: 1, warmup: 0, lora: true}",
    "global_batch=2",
    "run={micro_batch: 1, gradient_checkpointing: false, preview: 0}",
)
SETS = [word for assignment in SMALL for word in ("--set", assignment)]
ASK = """
import sys
from pathlib import Path
from svp.cli import main
from svp.model.pretrained import load_pretrained

main(["eval", "--from-cache", "caches/val", "--dataset", "scenes", "--split", "val", "--no-bounds",
      "--device", "cpu", "--json"], standalone_mode=False)
main(["export", "out", "--cache", "caches/val"], standalone_mode=False)
model = load_pretrained(Path("out"))
print(type(model.projector).__name__, model.projector.num_tokens((9, 9)), file=sys.stderr)
"""


def documented() -> str:
    """The code block of the chapter about adding a projector."""
    chapter = DOCS.read_text("utf-8").split("## Add a projector", 1)[1]
    found = re.search(r"```python\n(.*?)```", chapter, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scenes, two caches and the documentation's file."""
    monkeypatch.chdir(tmp_path)
    scenes = write_scenes(Path("scenes"), images=4, seed=3, splits={"train": 2, "val": 2})
    for split in ("train", "val"):
        request = Request(
            dataset=str(scenes), split=split, out=Path("caches") / split, quiet=True,
            flags=Flags(points_per_side=4, store_sam_embeddings=True),
            run=RunOptions(workers=0),
        )  # fmt: skip
        launch(request, open_request(request))
    Path("mean_pool.py").write_text(documented())
    return tmp_path


def test_what_it_reads_is_stored(world: Path) -> None:
    """`svp precompute --projector` knows plug-ins: here one that wants the CLS token."""
    file = world / "wants_cls.py"
    file.write_text(
        documented().replace("    def num", "    needs = frozenset({'cls'})\n\n    def num")
    )
    words = ["precompute", "--split", "val", "--dataset", "scenes", "--workers", "0", "--quiet",
             "--points-per-side", "4", "--projector", "mean_pool", "--out", "with"]  # fmt: skip
    run("-m", "svp", *words, "--plugin", str(file))
    assert CacheReader(Path("with")).plan.cls
    assert not CacheReader(Path("caches/val")).plan.cls


def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE", "SVP_"))}
    said = subprocess.run(
        [forked.python(), *words],
        env=forked.launched(kept | more),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return said


def test_it_is_short() -> None:
    assert len([line for line in documented().splitlines() if line.strip()]) < 30


@pytest.mark.usefixtures("world")
def test_train_in_two_processes_then_evaluate_export_and_load() -> None:
    train = ["train", "--plugin", "mean_pool.py", "--projector", "mean_pool", "--from-cache",
             "--lm", "random:0", "--sam-decoder", "shipped", "--device", "cpu", *SETS]  # fmt: skip
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "svp")
    assert "trained to step 2" in run(*launcher, *train).stdout
    (config,) = Path("runs").glob("*/config.yaml")
    assert "name: mean_pool" in config.read_text()
    said = run("-c", ASK, SVP_PLUGIN="mean_pool.py")
    assert '"tokens": [\n    1.0,\n    1.0\n' in said.stdout, "one token per image, as it says"
    assert said.stderr.splitlines()[-1] == "MeanPool 1"
