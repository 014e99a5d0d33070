"""The files of CONTRIBUTING.md add an encoder, a SAM, a data format and an executor from outside."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import svp
from support.mock_task import MockTask
from svp.cli import main
from svp.model.language.families import FAMILIES, family_of
from svp.model.language.load import random_lm, read_config
from svp.pipeline import plugins
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.detect import FORMATS
from svp.pipeline.encoders import build_encoder
from svp.pipeline.errors import ConfigError, DataError, WeightsError
from svp.pipeline.executors import EXECUTORS, ExecutorOptions, build
from svp.pipeline.executors.base import Done
from svp.pipeline.fetch.catalogue import REMOTES, find_remote
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import sized_plan
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.recipe import FeatureConfig, parse_recipe
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend

GUIDE = Path(svp.__file__).parent / "CONTRIBUTING.md"
# By file: group, name, and what an entry point names in the module.
FILES = {
    "my_encoder.py": ("svp.encoders", "my_clip", "ROW"),
    "my_sam.py": ("svp.sams", "vit_s", "ROW"),
    "my_language.py": ("svp.languages", "olmo2", "OLMO2"),
    "boxes.py": ("svp.datasets", "boxes", "read_boxes"),
    "one_by_one.py": ("svp.executors", "one_by_one", "OneByOne"),
}
PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
Install = Callable[[str], None]


def documented() -> dict[str, str]:
    """Python blocks of the guide by the file they name."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    return {re.match(r"# (\w+\.py)", block)[1]: block for block in blocks}  # type: ignore[index]


@pytest.fixture(params=["file", "entry point"])
def install(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Install]:
    """Make a file of the guide known, as a plug-in file or as an installed package's."""
    tables = (ENCODERS, SAMS, FAMILIES, FORMATS, EXECUTORS)
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)

    def make(name: str) -> None:
        text = documented()[name]
        group, key, what = FILES[name]
        (tmp_path / "package").mkdir()
        if request.param == "file":
            path = tmp_path / "package" / name
            monkeypatch.setenv(plugins.VARIABLE, str(path))
        else:  # without its last line, which registers
            path = tmp_path / "package" / f"outside_{name}"
            body, registering = text.rstrip().rsplit("\n", 1)
            assert registering.endswith(f'["{key}"] = {what}'), "one line registers"
            text = body + "\n"
            info = tmp_path / "package" / "outside-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Name: outside\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[{group}]\n{key} = {path.stem}:{what}\n")
            monkeypatch.syspath_prepend(tmp_path / "package")
            importlib.invalidate_caches()
        path.write_text(text)

    yield make
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)  # type: ignore[arg-type]
    for name in set(sys.modules) - modules:
        if name.startswith(("svp_plugin_", "outside_")):
            del sys.modules[name]


def test_the_guide_has_a_file_for_each() -> None:
    assert sorted(documented()) == sorted(FILES)


def test_an_encoder(install: Install) -> None:
    flags = Flags(encoder="my_clip", encoder_weights="random:3", superpixels="slic")
    with pytest.raises(ConfigError, match="--encoder my_clip: allowed are tiny, tiny-world2, dino"):
        resolve("tiny", None, flags, (), Path())
    with pytest.raises(ConfigError, match="features.encoder=my_clip: Input should be 'tiny', "):
        parse_recipe({"features": {"encoder": "my_clip"}}, "r")
    install("my_encoder.py")
    recipe, where = resolve("tiny", None, flags, (), Path())
    plan = sized_plan(recipe)
    assert (plan.grid, plan.channels) == ((8, 8), 32)
    assert build_encoder(recipe.features, where, "cpu").encode([PHOTO]).patches.shape == (1, 64, 32)


def test_a_worker_finds_the_encoder_of_a_recipe_that_was_checked_elsewhere(
    install: Install,
) -> None:
    install("my_encoder.py")
    told = {"encoder": "my_clip", "weights": "random:3", "size": 64}
    config = FeatureConfig.model_validate(told)
    del ENCODERS["my_clip"]  # as in a fresh process, which unpickles the recipe
    for name in [name for name in sys.modules if name.startswith("svp_plugin_")]:
        del sys.modules[name]
    found = build_encoder(config, LocalPaths(Path()), "cpu").encode([PHOTO])
    assert found.patches.shape == (1, 64, 32)


def test_a_sam(install: Install) -> None:
    flags = Flags(sam_model="vit_s", sam_weights="random:3", superpixels="sam")
    with pytest.raises(
        ConfigError, match="superpixels.model=vit_s: Input should be 'tiny', 'tiny-world2', 'vit"
    ):
        resolve("tiny", None, flags, (), Path())
    install("my_sam.py")
    recipe, where = resolve("tiny", None, flags, ("store_sam_embeddings=true",), Path())
    assert sized_plan(recipe).sam == (256, 16, 16)
    backend = build_backend(recipe.superpixels, where)
    assert backend.embed([PHOTO]).shape == (1, 256, 16, 16)


def test_a_family_of_language_models(install: Install, tmp_path: Path) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
             "num_attention_heads": 2, "pad_token_id": 0}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmo2", **sizes}))
    with pytest.raises(WeightsError, match=r"model_type olmo2: need .*qwen3.*svp\.languages"):
        read_config(tmp_path)
    install("my_language.py")
    lm = random_lm(read_config(tmp_path))
    assert type(lm).__name__ == "Olmo2ForCausalLM" and family_of(lm).title == "OLMo 2"


def test_a_data_format(install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    Image.fromarray(PHOTO).save(folder / "a.png")
    (folder / "boxes.txt").write_text("a.png 40 60 10 5 30 25 the red box\n")
    assert open_dataset(folder).kind == "folder", "photographs without expressions"
    install("boxes.py")
    source = open_dataset(folder, split="train")
    assert (source.kind, [record.path for record in source.images]) == ("boxes", ["a.png"])
    (expression,) = source.expressions
    assert expression.text == "the red box"
    assert source.masks["boxes", 0].height == 40
    said = CliRunner().invoke(main, ["data", "check", str(folder)])
    assert said.exit_code == 0 and "boxes train: images 1" in said.output, said.output

    (folder / "boxes.txt").write_text("a.png 40\n")
    with pytest.raises(DataError, match=r"data: format boxes: ValueError: not enough values"):
        open_dataset(folder)


def test_what_a_row_brings_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = replace(REMOTES["vit_t"], name="vit_s")
    row = replace(SAMS["vit_t"], name="vit_s", remote=remote)
    with pytest.raises(ConfigError, match="nothing to fetch called vit_s; known: vit_b, vit_l"):
        find_remote("vit_s")
    monkeypatch.setitem(SAMS, "vit_s", row)
    assert find_remote("vit_s") is remote


def test_a_format_that_gives_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "wrong", lambda path, options: ["a.png"])
    with pytest.raises(ConfigError, match=r"format wrong: its plug-in gives .*want a list of .*Da"):
        open_dataset(tmp_path)


def test_an_executor(install: Install, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"executor one_by_one: allowed are dask, local, ray .*-p"
    ):
        RunOptions(executor="one_by_one")
    install("one_by_one.py")
    assert RunOptions(executor="one_by_one").executor == "one_by_one"
    made = {}
    for name in ("one_by_one", "local"):
        (tmp_path / name).mkdir()
        task = MockTask(str(tmp_path / name), str(tmp_path), faults={5: "raise"})
        events = list(build(name, ExecutorOptions(workers=0)).events(task, task.shards))
        assert sorted(e.shard for e in events if isinstance(e, Done)) == list(task.shards)
        made[name] = {p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())}
    assert made["one_by_one"] == made["local"] != {}


def test_an_unknown_executor_on_the_command_line() -> None:
    for words in (
        ["precompute", "x", "--executor", "slurm"],
        ["reproduce", "table1", "--executor", "slurm"],
    ):
        said = CliRunner().invoke(main, words)
        assert said.exit_code == 2 and "executor slurm: allowed are dask, local, ray" in said.output
