"""Fig. 6, 11 and 12: the right runs are compared, and what is said and shown is what they answered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from svp.cli import main
from svp.pipeline.errors import ConfigError, DataError, MissingError
from svp.pipeline.masks import rle
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.evaluation.results import (
    Header,
    Results,
    Row,
    SplitSize,
    collect,
    read_results,
    write_results,
)
from svp.train.figures.against import Look, chosen, looks_of, open_other, pairs_of, words
from svp.train.recipe import TrainRecipe, parse_train_recipe

from .test_figures import SVP, save_run, svp

BOTH = Look("sspe", "t", "Fig. 6", ("without", "with"), False, ("relation", "size"), None)


def recipe(name: str = "svp", encoder: str = "dinov2-large", **options: Any) -> TrainRecipe:
    vision = {"encoder": encoder, "size": 336}
    model = {"vision": vision, "projector": {"name": name, "options": options}}
    stages = [{"name": "one", "steps": 2, "warmup": 0}]
    return parse_train_recipe({"model": model, "stages": stages}, "test")


def row(sent: int, right: int, classes: Sequence[str] = (), wrong: int = 0, image: int = 0) -> Row:
    """A target of 10 pixels of which `right` were answered, and `wrong` pixels beside it."""
    mask = np.zeros((4, 8), np.uint8)
    mask.flat[10 - right : 10 + wrong] = 1
    return Row(
        repeat=0, dataset="refcoco", image_id=image or sent, ref_id=1, sent_id=sent, text=f"s{sent}",
        path="a.png", height=4, width=8, intersection=right, union=10 + wrong, target=10, tokens=3,
        has_seg=True, counts=rle.encode(mask).counts.decode(), classes=list(classes),
    )  # fmt: skip


def results(*rows: Row, images: int = 2) -> Results:
    split = SplitSize(dataset="refcoco", split_by="unc", split="val", images=images, sentences=9)
    header = Header(
        svp="1", commit="", protocol="full", generate=False, seed=0, repeats=1, order="area",
        splits=[split], digests={}, libraries={},
    )  # fmt: skip
    return collect(header, rows)


def test_what_two_runs_are_compared_in() -> None:
    full, bare = recipe(), recipe(sspe_variant="none")
    (look,) = looks_of(full, bare)
    assert (look.paper, look.swap, look.sides) == ("Fig. 6", False, ("without SSPE", "with SSPE"))
    assert looks_of(bare, full)[0].swap, "RUN may be the poorer one"
    (look,) = looks_of(full, recipe(encoder="clip-large-336"))
    assert (look.paper, look.swap) == ("Fig. 11 and 12", False)
    assert look.sides == ("clip-large-336", "dinov2-large")
    (look,) = looks_of(recipe(encoder="clip-large-336"), full)
    assert look.swap and look.sides == ("clip-large-336", "dinov2-large")
    both = looks_of(full, recipe(encoder="clip-large-336", sspe_variant="none"))
    assert [one.name for one in both] == ["sspe", "encoders"]
    fused = recipe("fusion", svp={"sspe_variant": "none"})
    assert [one.name for one in looks_of(full, fused)] == ["sspe"]
    for same in (full, recipe(sspe_variant="bbox_mlp"), recipe("mlp")):
        assert looks_of(full, same) == ()


def test_sentences_of_both_are_paired_and_others_left_out() -> None:
    ours, theirs = (
        results(row(1, 5), row(2, 9), row(3, 2)),
        results(row(2, 1), row(3, 2), row(4, 5)),
    )
    pairs = pairs_of(ours, theirs, Path("b"))
    assert [(a.sent_id, a.intersection, b.intersection) for a, b in pairs] == [(2, 9, 1), (3, 2, 2)]
    with pytest.raises(DataError, match="no sentence in common"):
        pairs_of(results(row(1, 5)), results(row(2, 5)), Path("b"))
    other = row(2, 9).model_copy(update={"text": "another"})
    with pytest.raises(DataError, match="sentence 2 of image 2 is 's2' .* 'another'"):
        pairs_of(ours, results(other), Path("b"))


def test_the_largest_gains_of_a_class_and_the_largest_loss_are_shown() -> None:
    ours = [row(1, 9, ["relation"]), row(2, 8, ["relation"]), row(3, 7, ["relation"]),
            row(4, 3, ["relation"], image=1), row(5, 9, ["size"]), row(6, 1, ["size"]),
            row(7, 0), row(8, 9)]  # fmt: skip
    theirs = [row(1, 1, ["relation"]), row(2, 1, ["relation"]), row(3, 5, ["relation"]),
              row(4, 0, ["relation"], image=1), row(5, 8, ["size"]), row(6, 5, ["size"]),
              row(7, 9), row(8, 1)]  # fmt: skip
    pairs = pairs_of(results(*ours), results(*theirs), Path("b"))
    shown = chosen(BOTH, pairs)
    told = [
        (why, poor.sent_id, poor.intersection, rich.intersection) for why, (poor, rich) in shown
    ]
    assert told == [("relation", 1, 1, 9), ("relation", 2, 1, 8), ("size", 5, 8, 9),
                    ("largest loss", 7, 9, 0)]  # fmt: skip
    same = pairs_of(results(*ours), results(*ours), Path("b"))
    assert chosen(BOTH, same) == []


def test_what_is_said_beside_them() -> None:
    ours = results(row(1, 9, ["relation"]), row(2, 5, wrong=5))
    theirs = results(row(1, 4, ["relation"]), row(2, 10, wrong=10))
    text = words(BOTH, pairs_of(ours, theirs, Path("b")), ours.header)
    # IoU without: 4/10, 10/20; with: 9/10, 5/15. Outside without: 0, 10/20; with: 0, 5/10.
    assert (
        "(sentences): all 45.0 / 61.7 (2), relation 40.0 / 90.0 (1), plain 50.0 / 33.3 (1)" in text
    )
    assert "rises by more than 0.25 for 1 of them and falls by as much for 0" in text
    assert "25 % / 25 % lie outside" in text and "paper" not in text
    (look,) = looks_of(recipe(), recipe(sspe_variant="none"))
    there = results(*ours.rows, images=1500)
    text = words(look, pairs_of(ours, theirs, Path("b")), there.header)
    assert (
        "The paper's gIoU of this split, Table 3: Baseline + DINOv2 77.0 / Baseline + DINOv2 + "
        in text
    )
    assert text.endswith("SSPE 80.1.")


def righted(row: Row) -> Row:
    """The row of a model that finds the target: random ones find nothing, and answer all alike."""
    mask = np.zeros((row.height, row.width), np.uint8)
    mask.flat[: row.target] = 1
    right = {"intersection": row.target, "union": row.target, "has_seg": True}
    return row.model_copy(update={**right, "counts": rle.encode(mask).counts.decode()})


def evaluate(run: Path, *more: str) -> None:
    svp("eval", "--checkpoint", run, "--from-cache", "caches/val", "--dataset", "scenes",
        "--split", "val", "--device", "cpu", "--no-bounds", *more)  # fmt: skip


def test_a_run_without_sspe_beside_one_with_it(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    full = save_run(world, "svp", SVP, "full")
    bare = save_run(world, "svp", SVP | {"sspe_variant": "none", "ssa_variant": "none"}, "bare")
    evaluate(full)
    command = ["figures", str(full), "--dataset", "scenes", "--from-cache", "caches/val",
               "--against", str(bare)]  # fmt: skip
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 3
    assert (
        f"make them with `svp eval --checkpoint {bare} --split val --protocol full`" in done.output
    )
    evaluate(bare)
    found = read_results(next((full / "eval").glob("*.jsonl")))
    write_results(full / "eval" / "right.jsonl", collect(found.header, map(righted, found.rows)))
    told = svp(*command, "--against", bare)
    assert told["drawn"]["sspe"] and told["drawn"]["sspe-2"] and "encoders" not in told["drawn"]
    page = Path(told["page"])
    html = page.read_text()
    assert "The runs also differ in projector.options.ssa_variant." in html
    own = read_results(full / "eval" / "right.jsonl")
    recipe = parse_train_recipe(_recipe_of(full), "full")
    other = open_other(bare, recipe, own)
    there = {r.key: r for r in read_results(next((bare / "eval").glob("*.jsonl"))).rows}
    assert [mine.key for mine, _ in other.pairs] == [r.key for r in own.rows]
    assert all(its == there[mine.key] for mine, its in other.pairs)
    picture = np.asarray(Image.open(page.parent / "assets" / "sspe.png").convert("L"))
    assert picture.std() > 10
    with pytest.raises(ConfigError, match="both or neither have SSPE"):
        open_other(full, recipe, own)
    with pytest.raises(MissingError, match=r"--protocol glamm"):
        glamm = Results(own.header.model_copy(update={"protocol": "glamm"}), own.rows)
        open_other(bare, recipe, glamm)


@pytest.mark.usefixtures("clip_dial")
def test_a_run_of_another_encoder_beside_it(
    world: Path, monkeypatch: pytest.MonkeyPatch, figures: list[Any]
) -> None:
    """Fig. 11 and 12: photograph, superpixels and both answers of every sentence shown."""
    monkeypatch.chdir(world)
    request = Request(
        dataset="scenes", split="val", out=Path("caches/clip"), size="tiny",
        flags=Flags(points_per_side=5, store_sam_embeddings=True, encoder="clip-large-336",
                    encoder_weights="random"),
        run=RunOptions(workers=0), quiet=True,
    )  # fmt: skip
    launch(request, open_request(request))
    full = save_run(world, "svp", SVP, "tiny")
    clip = save_run(world, "svp", SVP, "clip", encoder="clip-large-336", size=336, cache="clip")
    evaluate(full)
    svp("eval", "--checkpoint", clip, "--from-cache", "caches/clip", "--dataset", "scenes",
        "--split", "val", "--device", "cpu", "--no-bounds")  # fmt: skip
    found = read_results(next((full / "eval").glob("*.jsonl")))
    write_results(full / "eval" / "right.jsonl", collect(found.header, map(righted, found.rows)))
    figures.clear()
    told = svp("figures", full, "--dataset", "scenes", "--from-cache", "caches/val",
               "--against", clip)  # fmt: skip
    assert told["drawn"]["encoders"] and "sspe" not in told["drawn"]
    html = Path(told["page"]).read_text()
    assert "Fig. 11 and 12" in html and "clip-large-336" in html
    (picture,) = (f for f in figures if any("clip-large" in a.get_title() for a in f.axes))
    titles = [axis.get_title() for axis in picture.axes]
    rows = len(titles) // 4
    assert rows > 0 and len(titles) == 4 * rows
    own = {row.text for row in found.rows}
    for number in range(rows):
        text, why, left, right = titles[4 * number : 4 * number + 4]
        assert text in own and why.endswith(("token", "tokens"))
        assert {left.partition(":")[0], right.partition(":")[0]} == {"clip-large-336", "tiny"}
        photo, mosaic, *answers = picture.axes[4 * number : 4 * number + 4]
        for axis in (photo, mosaic, *answers):
            assert np.asarray(axis.images[0].get_array()).shape == (128, 128, 3)
    png = Image.open(Path(told["page"]).parent / "assets" / "encoders.png")
    assert png.size == (round(4 * 2.4 * 110), round(rows * 2.4 * 110))


def _recipe_of(run: Path) -> dict[str, Any]:
    from svp.train.trainer.resume import named_checkpoint

    return dict(named_checkpoint(run).state.recipe)
