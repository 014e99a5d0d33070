"""Stand-ins have the published files' names, keys and fields; settings act only in a rehearsal."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.datasets import open_dataset
from svp.pipeline.encoders import clip, dinov2
from svp.pipeline.errors import ConfigError, WeightsError
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.sam.build import build_sam, detect_type, sam_spec
from svp.pipeline.weights.load import load_state_dict
from svp.pipeline.weights.rehearsal import MARK, VARIABLE, rehearsal_settings
from svp.train.data.cache_fit import outline_projector
from svp.train.options import TrainFlags, resolve_plain
from svp.train.rehearse import photographs
from svp.train.rehearse.run import SMALL
from svp.train.rehearse.stand_in_weights import SAM_FILES, sam_state
from svp.train.reproduce.paper_tables import FINER, experiment

KEYS = Path(__file__).parents[2] / "fixtures" / "keys"


@pytest.fixture
def dialled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins, in a rehearsal."""
    path = tmp_path / "dial.yaml"
    path.write_text(yaml.safe_dump({"folder": str(tmp_path), **SMALL}))
    monkeypatch.setenv(VARIABLE, str(path))
    return tmp_path


def published(model: str) -> dict[str, str]:
    rows = (KEYS / f"{model}.tsv").read_text().splitlines()
    return {row.split("\t")[0]: row.split("\t")[2] for row in rows}


@pytest.mark.usefixtures("dialled")
@pytest.mark.parametrize("model", ["vit_h", "vit_l", "vit_b"])
def test_sam_has_the_published_names_of_the_blocks_it_keeps(model: str) -> None:
    state = sam_state(model)
    depth = sam_spec(model).depth
    names = published(f"sam_{model}")
    kept = {n for n in names if ".blocks." not in n or int(n.split(".")[2]) < depth}
    assert state.keys() == kept and sam_spec(model).width < SAMS[model].width
    assert detect_type(state) == model
    build_sam(model).load_state_dict(state, assign=True)


@pytest.mark.usefixtures("dialled")
def test_mobile_sam_is_published_in_names_and_shapes() -> None:
    shapes = {
        name: "x".join(map(str, value.shape)) or "scalar"
        for name, value in sam_state("vit_t").items()
    }
    assert shapes == published("mobile_sam_vit_t")


def test_a_stand_in_is_read_under_the_dial_only(
    dialled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dialled / SAM_FILES["vit_b"]
    torch.save({"a": torch.zeros(1)}, path)
    assert load_state_dict(path).keys() == {"a"}
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(WeightsError, match="name of a published file"):
        load_state_dict(path)


@pytest.mark.usefixtures("dialled")
def test_a_public_name_elsewhere_is_still_checked(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("other") / SAM_FILES["vit_b"]
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="name of a published file"):
        load_state_dict(path)


def test_recipes_are_marked_and_shortened(dialled: Path) -> None:
    recipe = resolve_plain("paper", None, TrainFlags(), ())
    assert MARK in recipe.name and recipe.global_batch == SMALL["global_batch"]
    assert [(s.name, s.steps) for s in recipe.stages] == [("align", 2), ("finetune", 2)]
    flags = Flags(sam_weights="random", sam_model="vit_h", encoder_weights="random")
    made, _ = resolve("paper", None, flags, (), dialled)
    assert made.superpixels.grid.points_per_side == SMALL["grid_points"]
    assert made.superpixels.preset == "custom" and made.batch == SMALL["batch"]


@pytest.mark.parametrize("row", [FINER, "Semantic superpixel w/ MobileSAM"])
def test_the_superpixels_of_table_c_are_turned_down_too(row: str, dialled: Path) -> None:
    flags = Flags(sam_weights="random", encoder_weights="random")
    made, _ = resolve("paper", None, flags, experiment("tableC", "paper").row(row).cache, dialled)
    assert made.superpixels.grid.points_per_side == SMALL["grid_points"]
    windows = made.superpixels.preset == "windows"
    assert windows == (row == FINER) and made.superpixels.grid.crop_n_layers == int(windows)


@pytest.mark.usefixtures("dialled")
def test_projectors_of_table_1_are_narrow_and_keep_what_the_table_sets() -> None:
    for row in experiment("table1", "paper").rows:
        asked = resolve_plain("paper", None, TrainFlags(), row.train)
        built = outline_projector(asked, 128, (24, 24), 64)
        assert sum(p.numel() for p in built.parameters()) < 5_000_000, row.name
        if row.name == "Q-Former":
            assert dict(asked.model.projector.options) == {
                "tokens": 40, "hidden": 96, "heads": 4, "ffn": 384,
            }  # fmt: skip


def test_the_encoders_heads_are_as_wide_as_published(dialled: Path) -> None:
    assert dinov2.shape("dinov2-large") == (128, 24, 2)
    large = clip.shape("clip-large-336")
    assert (large["hidden"], large["heads"]) == (128, 2)


def test_without_the_dial_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert rehearsal_settings() is None and all(sam_spec(name) is SAMS[name] for name in SAMS)
    recipe = resolve_plain("paper", None, TrainFlags(), ())
    assert recipe.name == "paper" and recipe.steps == 5250 and recipe.global_batch == 160


def test_a_wrong_dial_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.yaml").write_text("folder: x\nstepps: 2\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "d.yaml"))
    with pytest.raises(ConfigError, match="stepps"):
        rehearsal_settings()


def test_refer_sets_read_as_published_ones(tmp_path: Path) -> None:
    photographs.write_coco(tmp_path)
    assert (tmp_path / "train2014" / "COCO_train2014_000000581857.jpg").is_file()
    for split, sets in {"train": 3, "val": 3, "testA": 2, "testB": 2, "test": 1}.items():
        source = open_dataset(str(tmp_path), split=split)
        assert len({row.dataset for row in source.sentences}) == sets, split


def test_a_set_of_ones_own_reads(tmp_path: Path) -> None:
    photographs.write_own(tmp_path)
    for name, expressions in {"train": 6, "val": 4}.items():
        source = open_dataset(str(tmp_path / f"{name}.jsonl"), split=name)
        assert len(source.sentences) == expressions


def test_synth_makes_few_scenes_of_every_split_in_a_rehearsal(dialled: Path) -> None:
    out = dialled / "scenes"
    result = CliRunner().invoke(main, ["data", "synth", str(out), "--images", "128"])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "digest.json").read_text())["splits"]
    assert sum(found.values()) == 4 * SMALL["scenes"] and min(found.values()) >= 1
