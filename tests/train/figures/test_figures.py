"""`svp figures` on a run with a random model: every picture is drawn and the page names them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from svp.cli import main
from svp.model.batch import Visual
from svp.model.projectors import build_projector
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.errors import DataError, MissingError
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.factory import assemble
from svp.train.figures import canvas
from svp.train.figures import run as figures
from svp.train.figures.latency import latency, read_bars, stack_table
from svp.train.figures.projector_time import Timed, means, time_images
from svp.train.options import Places
from svp.train.recipe import parse_train_recipe
from svp.train.runs.newest_cache import find_cache
from svp.train.trainer.checkpoint import State, save_checkpoint
from svp.train.trainer.prepare import make_ready

SVP: dict[str, Any] = {
    "num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1, "sspe_ffn": 16,
    "ssa_heads": 2, "ssa_blocks": 2, "ssa_ffn": 16, "mlp_hidden": 16,
}  # fmt: skip
QFORMER = {"tokens": 6, "hidden": 8, "layers": 2, "heads": 2, "ffn": 16}


def save_run(
    world: Path,
    name: str,
    options: dict[str, Any],
    folder: str = "",
    *,
    encoder: str = "tiny",
    size: int = 128,
    cache: str = "val",
) -> Path:
    """A run whose weights are random: its answers are bad, its pictures are not."""
    recipe = parse_train_recipe(
        {
            "model": {
                "init": "none", "lm": "random:0", "sam_decoder": "shipped", "dtype": "float32",
                "shape": {"hidden": 16, "intermediate": 24, "layers": 1, "heads": 2, "kv_heads": 2},
                "vision": {"encoder": encoder, "size": size},
                "projector": {"name": name, "options": options},
            },
            "stages": [{"name": "one", "steps": 2, "warmup": 0}],
        },
        "test",
    )  # fmt: skip
    plan = CacheReader(world / "caches" / cache).plan
    made = assemble(recipe, plan, Places())
    make_ready(made.model, recipe, 0, made.new_rows)
    trained = {n: p.detach() for n, p in made.model.named_parameters() if p.requires_grad}
    state = State(
        schema_version=1, step=2, stage=0, stage_step=2, recipe=json.loads(recipe.canonical()),
        data={}, cursor={}, world=1, micro_batch=1,
    )  # fmt: skip
    run = world / "runs" / (folder or name)
    save_checkpoint(run / "checkpoints", state, trained, {})
    return run


def svp(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def bench_file(path: Path) -> Path:
    """What `svp bench infer --json` prints, in short; an older one did not split the projector."""
    case = {"work": "forward", "projector": "svp", "live": True, "stage": 0}
    runs = [{"LLM": 0.2 * k, "projector": 0.01, "SAM encoder": 0.1} for k in (3, 1, 2)]
    slow = [{"LLM": 0.9, "projector": 0.001, "SAM encoder": 0.1}]
    inside = [{"SSPE": 0.001 * k, "SSA": 0.002, "MLP": 0.008 - 0.001 * k} for k in (3, 1, 2)]
    cases = [
        {"case": case, "seconds": runs, "inside": inside},
        {"case": case | {"projector": "mlp"}, "seconds": slow},
    ]
    path.write_text(json.dumps({"device": "one CPU thread", "cases": cases}))
    return path


def test_every_figure_from_one_command(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SVP first evaluates, as there is no result file; then the cache is found by its digest."""
    monkeypatch.chdir(world)
    run = save_run(world, "svp", SVP)
    said = svp("eval", "--checkpoint", run, "--from-cache", "caches/val", "--dataset", "scenes",
               "--split", "val", "--device", "cpu", "--no-bounds")  # fmt: skip
    assert said["splits"][0]["size"]["images"] == 5
    command = ("figures", run, "--dataset", "scenes", "--device", "cpu")
    told = svp(*command, "--bench", bench_file(world / "bench.json"), "--beside", "caches/val")
    assert told["drawn"] == dict.fromkeys(
        ("attention", "qualitative", "small", "failures", "fit", "sources", "projector", "latency"),
        True,
    )
    page = Path(told["page"])
    html = page.read_text()
    for name in told["drawn"]:
        picture = np.asarray(Image.open(page.parent / "assets" / f"{name}.png").convert("L"))
        assert picture.std() > 10, f"{name} is not blank"
        assert f'src="assets/{name}.png"' in html
    again = svp(*command)
    assert "latency" not in again["drawn"] and not (page.parent / "assets/latency.png").exists()
    assert "projector on one CPU thread" in html and "A CPU&#39;s times" in html
    assert "The paper&#39;s Fig. 10" in html


def test_queries_of_a_qformer_and_a_projector_without_attention(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    for name, options, drawn in (("qformer", QFORMER, True), ("mlp", {}, False)):
        run = save_run(world, name, options)
        svp("eval", "--checkpoint", run, "--from-cache", "caches/val", "--dataset", "scenes",
            "--split", "val", "--device", "cpu", "--no-bounds")  # fmt: skip
        told = svp("figures", run, "--dataset", "scenes", "--from-cache", "caches/val",
                   "--out", world / f"page-{name}")  # fmt: skip
        assert told["drawn"]["attention"] is drawn and told["drawn"]["qualitative"]
        html = Path(told["page"]).read_text()
        assert ("mlp of this run has no attention" in html) is not drawn
        assert not told["drawn"]["projector"]
        assert f"The projector {name} of this run has no SSPE" in html


def test_the_parts_of_the_projector_sum_to_its_time(world: Path) -> None:
    projector = build_projector("svp", in_dim=8, llm_dim=16, **SVP)
    masks = torch.ones(1, 3, 4, 4, dtype=torch.uint8)
    image = Visual(torch.ones(1, 4, 8), (2, 2), torch.ones(1, 3, 4), masks, torch.ones(1, 3) > 0)
    timed = time_images(projector, [image] * 2, "cpu", half=False)
    assert [one.tokens for one in timed] == [3, 3]
    for one in timed:
        assert set(one.parts) == {"SSPE", "SSA", "MLP"} and min(one.parts.values()) >= 0
        assert sum(one.parts.values()) == pytest.approx(one.whole, rel=1e-9, abs=1e-12)
    assert not any(module._forward_hooks for module in projector.modules())
    two = [Timed(3, 0.5, {"SSPE": 0.1, "MLP": 0.4}), Timed(5, 0.9, {"SSPE": 0.3, "MLP": 0.6})]
    assert means(two) == pytest.approx({"SSPE": 200, "MLP": 500})


def test_of_a_cache_with_several_plans_the_runs_own_is_drawn(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cache = save_run(world, "svp", SVP), tmp_path / "both"
    for changes in (("features.view=pad",), ()):
        request = Request(
            dataset=str(world / "scenes"), split="val", out=cache, quiet=True,
            flags=Flags(points_per_side=5, store_sam_embeddings=True), overrides=changes,
            run=RunOptions(workers=0),
        )  # fmt: skip
        launch(request, open_request(request))
    own = CacheReader(world / "caches" / "val").plan.id
    assert own != CacheReader(cache).plan.id
    header = SimpleNamespace(digests={"cache 0": own}, splits=[SimpleNamespace(split="val")])
    monkeypatch.setattr(figures, "_results", lambda request, run: SimpleNamespace(header=header))
    made = figures._material(figures.FiguresRequest(run=run, cache=cache), run)
    assert made.reader.plan.id == own


def test_a_device_that_is_not_there_is_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    run = save_run(world, "svp", SVP)
    done = CliRunner().invoke(main, ["figures", str(run), "--device", "tpu"])
    assert done.exit_code == 2 and "tpu" in done.output


def test_a_file_that_is_not_there_is_told_before_anything_is_drawn(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    run = save_run(world, "svp", SVP)
    monkeypatch.setattr(figures, "_material", lambda request: pytest.fail("work has begun"))
    for option, said in (("--bench", "nowhere: no such file"), ("--beside", "not a cache")):
        done = CliRunner().invoke(main, ["figures", str(run), "--device", "cpu", option, "nowhere"])
        assert done.exit_code == 3 and said in done.output


def test_bars_are_the_median_runs(tmp_path: Path) -> None:
    bars = read_bars(bench_file(tmp_path / "b.json"))
    assert [bar.name for bar in bars] == ["SVP, forward, live", "MLP, forward, live"]
    assert bars[0].parts["LLM"] == pytest.approx(400) and bars[0].whole == pytest.approx(510)
    assert bars[0].inside == pytest.approx({"SSPE": 2, "SSA": 2, "MLP": 6}), "of the median run"
    assert bars[1].inside == {} and bars[1].device == "one CPU thread"
    assert "on one CPU thread; parts sum" in latency(bars).text
    with pytest.raises(MissingError, match="svp bench infer --json"):
        read_bars(tmp_path / "none.json")
    for text in ("[]", '{"cases": []}', '{"cases": [{"case": 3}]}', "\x00",
                 '{"cases": [{"case": {}, "seconds": [{"warp drive": 1}]}]}',
                 '{"cases": [{"case": {}, "seconds": [{"LLM": 1}], "inside": [{"warp": 1}]}]}',
                 '{"cases": [{"case": {}, "seconds": [{"LLM": 1}], "inside": {"SSPE": 1}}]}'):  # fmt: skip
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=r"bad\.json"):
            read_bars(tmp_path / "bad.json")


def test_a_cache_is_found_by_its_digest_only(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    wanted = CacheReader(world / "caches" / "val").plan.id
    assert find_cache(wanted) == Path("caches/val")
    with pytest.raises(MissingError, match="--from-cache"):
        find_cache("0" * 64)


def test_a_title_stays_in_its_column_and_is_no_formula(figures: list[Any]) -> None:
    """Expressions are the user's: as long as they like, and with a price in them."""
    figure, axes = canvas.grid(2, 3)
    texts = [["W" * 60, "W" * 60, "i" * 60], ["the $5 left of $6", r"$\frac$", "short"]]
    for line, row, size in zip(axes, texts, ((40, 60), (60, 10)), strict=True):
        for axis, text in zip(line, row, strict=True):
            axis.imshow(np.zeros(size))
            canvas.label(axis, text)
    assert canvas.png(figure).startswith(b"\x89PNG") and figures == [figure]
    said = [[axis.get_title() for axis in line] for line in axes]
    assert said[1] == texts[1] and said[0][2] == texts[0][2]
    assert 10 < len(said[0][0]) < 60 and "..." in said[0][0]


def test_drawing_aids() -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, 4:] = 200
    left, right = np.zeros((2, 6, 8), np.bool_)
    left[:, :4], right[:, 4:] = True, True
    assert np.array_equal(canvas.mosaic(pixels, [left, right]), pixels)
    bare = canvas.mosaic(pixels, [right])
    assert np.array_equal(bare[right], pixels[right]) and set(np.unique(bare[left])) == {0, 255}
    edges = canvas.borders([left, right])
    assert edges[:, 4].all() and edges.sum() == 6
    assert (canvas.veil(pixels, left, canvas.PREDICTED)[left] == [0, 57, 89]).all()


def test_of_a_folder_of_runs_the_newest_is_drawn(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        step = tmp_path / name / "checkpoints" / "step-00000001"
        step.mkdir(parents=True)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "empty").mkdir()
    assert figures.run_of(tmp_path) == tmp_path / "new"
    for one in (tmp_path / "old", step, tmp_path / "empty"):
        assert figures.run_of(one) == one


def test_the_table_of_a_chart_has_its_numbers() -> None:
    bars = [("mean", {"sspe": 1.25, "ssa": 2.0}), ("image 7", {"ssa": 3.0})]
    head, rows = stack_table(bars, ("ssa", "mlp", "sspe"), [3.25, 3.0])
    assert head == ("Milliseconds", "ssa", "sspe", "whole")
    assert rows == (("mean", "2.00", "1.25", "3.25"), ("image 7", "3.00", "–", "3.00"))
