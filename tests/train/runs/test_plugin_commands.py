"""A projector and a superpixel source from outside, in either way, go through every command.

What a plug-in registered is forgotten before each command, as a new process knows nothing of it.
"""

import importlib
import importlib.metadata
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from svp.cli import main
from svp.model.pretrained import load_pretrained
from svp.model.projectors import PROJECTORS
from svp.pipeline import plugins
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError
from svp.pipeline.superpixels.external import METHODS
from svp.train.evaluation.results import read_results

CODE = '''
import numpy as np
from torch import nn
from svp.model.projectors import PROJECTORS, Projector
from svp.pipeline.superpixels.external import SuperpixelMethod, METHODS

class MeanPool(Projector):
    """One token, the mean of the patches."""

    def __init__(self, *, in_dim, llm_dim):
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.linear = nn.Linear(in_dim, llm_dim)

    def num_tokens(self, grid):
        return 1

    def project(self, x):
        return self.linear(x.patches.mean(1, keepdim=True))

class Halves(SuperpixelMethod):
    def masks(self, image):
        columns = np.arange(image.shape[1]) * 2 // image.shape[1]
        return np.tile(columns + 1, (image.shape[0], 1))
'''
REGISTER = '\nPROJECTORS["mean_pool"] = MeanPool\nMETHODS["halves"] = Halves\n'
POINTS = "[svp.projectors]\nmean_pool = mine:MeanPool\n[svp.superpixels]\nhalves = mine:Halves\n"
SMALL = (
    "model.shape={hidden: 16, intermediate: 24, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0={name: align, steps: 1, warmup: 0, add_sspe: false}",
    "stages.1={name: finetune, steps: 1, warmup: 0, lora: true}",
    "global_batch=2",
    "run={micro_batch: 2, gradient_checkpointing: false, preview: 0, checkpoint: 1}",
)
TRAIN = ["train", "--from-cache", "caches/train", "--projector", "mean_pool", "--lm", "random:0",
         "--sam-decoder", "shipped", "--device", "cpu",
         *(word for assignment in SMALL for word in ("--set", assignment))]  # fmt: skip
EVAL = ["eval", "--split", "val", "--from-cache", "caches/val", "--no-bounds", "--device", "cpu"]

Ask = Callable[..., Result]


def forget() -> None:
    """As a new process: neither registered nor imported."""
    PROJECTORS.pop("mean_pool", None)
    METHODS.pop("halves", None)
    for name in [name for name in sys.modules if name.startswith("svp_plugin_")] + ["mine"]:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module", params=["file", "entry point"])
def ask(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Runs a command with the plug-in, in a folder with its caches of two splits and a run."""
    root = tmp_path_factory.mktemp("world")
    plugin = ["--plugin", "mine.py"] if request.param == "file" else []

    def ask(*words: str, plugin: list[str] = plugin) -> Result:
        forget()
        return CliRunner().invoke(main, [*words, *plugin])

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv(plugins.VARIABLE, raising=False)
        if plugin:
            Path("mine.py").write_text(CODE + REGISTER)
        else:
            package = Path("packages/mine-1.0.dist-info")
            package.mkdir(parents=True)
            (package / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
            (package / "entry_points.txt").write_text(POINTS)
            Path("packages/mine.py").write_text(CODE)
            patch.syspath_prepend("packages")
            importlib.invalidate_caches()
        write_scenes(Path("scenes"), images=4, seed=9, splits={"train": 2, "val": 2})
        for split in ("train", "val"):
            done(ask("precompute", "--split", split, "--dataset", "scenes", "--workers", "0",
                     "--superpixels", "halves", "--projector", "mean_pool", "--quiet",
                     "--out", f"caches/{split}"))  # fmt: skip
        done(ask(*TRAIN))
        yield ask
    forget()


def done(result: Result) -> str:
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    return result.output


def run() -> Path:
    (found,) = Path("runs").glob("tiny-*")
    return found


def test_its_superpixels_are_cached(ask: Ask) -> None:
    reader = CacheReader(Path("caches/val"))
    assert [len(reader.superpixels(row)) for row in range(2)] == [2, 2]


def test_the_commands_that_are_told_name_it_too(ask: Ask) -> None:
    said = done(ask(*TRAIN, "--runs", "told"))
    told = [shlex.split(line) for line in said.splitlines() if "svp " in line]
    follow = [words[words.index("svp") + 1 :] for words in told]
    assert {words[0] for words in follow} >= {"eval", "predict"}
    for words in follow:
        done(ask(*words, plugin=[]))
    cut = ["precompute", "--split", "train", "--dataset", "scenes", "--workers", "0", "--quiet"]
    said = done(ask(*cut, "--superpixels", "halves", "--projector", "mean_pool", "--out", "told/c"))
    (line,) = [line for line in said.splitlines() if "svp train" in line]
    words = shlex.split(line[line.index("svp train") :])[1:]
    done(ask(*words, "--dry-run", plugin=[]))


def test_a_run_goes_on(ask: Ask) -> None:
    done(ask(*TRAIN, "--runs", "stopped"))
    (stopped,) = Path("stopped").glob("tiny-*")
    _, last = sorted((stopped / "checkpoints").iterdir())
    shutil.rmtree(last)
    assert "trained to step 2" in done(ask("train", "--device", "cpu", "--resume", str(stopped)))
    assert last.is_dir()


def test_training_sees_its_superpixels_live(ask: Ask) -> None:
    assert "trained to step 2" in done(ask(*TRAIN, "--live", "--runs", "live"))


def test_a_photograph_is_asked_about(ask: Ask) -> None:
    photo = str(min(Path("scenes").rglob("val*.png")))
    said = done(ask("predict", photo, "the red disc", "--device", "cpu", "--out", "answers"))
    assert "1 visual token" in said


@pytest.mark.parametrize("live", [[], ["--live"]], ids=["cached", "live"])
def test_it_is_evaluated(ask: Ask, live: list[str]) -> None:
    done(ask(*EVAL, *live, "--out", f"results{len(live)}.jsonl"))
    assert {row.tokens for row in read_results(Path(f"results{len(live)}.jsonl")).rows} == {1}


def test_an_export_predicts_and_is_evaluated_and_trains_on(ask: Ask) -> None:
    done(ask("export", "made"))
    photo = str(min(Path("scenes").rglob("val*.png")))
    here = ["--checkpoint", "made"]
    done(ask("predict", photo, "the red disc", *here, "--device", "cpu", "--out", "again"))
    done(ask(*EVAL, *here, "--out", "exported.jsonl"))
    words = [word for word in TRAIN if word not in ("--lm", "random:0", "--sam-decoder", "shipped")]
    assert "random values" not in done(ask(*words, "--init", "made", "--runs", "more"))
    words[words.index("mean_pool")] = "mlp"
    said = done(ask(*words, "--init", "made", "--runs", "other")).replace("\n", " ")
    assert "projector mlp starts from random values: to train that of made instead, give" in said
    (option,) = re.findall(r"give --set '(model.projector=\{.*?\}\})'", said)
    assert json.loads(option.partition("=")[2]) == {"name": "mean_pool", "options": {}}
    assert type(load_pretrained("made").projector).__name__ == "MeanPool"


def test_without_it_every_command_says_how_to_name_it(ask: Ask) -> None:
    photo = str(min(Path("scenes").rglob("val*.png")))
    named = "(projector mean_pool|superpixel halves): .*--plugin FILE, or a package with"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "entry_points", lambda **words: no_points())
        for words in (
            TRAIN,
            ["train", "--resume", str(run())],
            ["predict", photo, "the red disc"],
            ["eval", "--split", "val", "--from-cache", "caches/val"],
            [*EVAL, "--live", "--checkpoint", str(run())],
            ["export", "other"],
        ):
            result = ask(*words, plugin=[])
            assert result.exit_code == 2, f"{words}: {result.output}"
            with pytest.raises(ConfigError, match=named):
                raise ConfigError(result.output)
        forget()
        patch.setenv("COLUMNS", "200")
        made = ask("precompute", "--split", "val", "--dataset", "scenes", "--superpixels", "halves",
                   "--out", "caches/other", plugin=[])  # fmt: skip
        assert made.exit_code == 2 and "--plugin FILE" in made.output


def no_points() -> object:
    return importlib.metadata.EntryPoints()
