"""`svp reproduce budget` from nothing to the figure, with one step on four scenes; then for nothing."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from svp.model.projectors import PROJECTORS
from svp.model.projectors.payn import PAYN
from svp.train import cli_defaults
from svp.train.evaluation.results import read_results
from svp.train.reproduce import trials
from svp.train.reproduce.dry_run import reproduce_or_plan
from svp.train.reproduce.request import ReproduceRequest
from svp.train.reproduce.results import read_table
from svp.train.reproduce.run import reproduce

MICRO = (
    "model.init=none", "model.lm=random:0", "model.sam_decoder=shipped",
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0.steps=1", "stages.0.warmup=0", "stages.1.steps=1", "stages.1.warmup=0",
    "global_batch=2", "run.micro_batch=2", "run.preview=0",
)  # fmt: skip
ROWS = ("SVP: auto", "SVP: mean:4", "DiVT: threshold 0.51", "mine: 4", "mine: 16")


class Mine(PAYN):
    """Stands for a projector of a plug-in; `tokens` can be set afterwards."""


def test_one_training_serves_several_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_defaults, "DATA", tmp_path / "scenes")
    monkeypatch.setattr(cli_defaults, "SPLITS", {"train": 2, "val": 1, "testA": 2})
    monkeypatch.setitem(PROJECTORS, "mine", Mine)
    monkeypatch.chdir(tmp_path)
    asked = ReproduceRequest(
        table="budget", seeds=1, rows=ROWS, projectors=("mine",), changes=MICRO,
        out=tmp_path / "results", runs=tmp_path / "runs", caches=tmp_path / "caches",
        device="cpu", workers=0,
    )  # fmt: skip
    done: list[object] = []
    train = trials.train_command

    def counted(request: object) -> object:
        done.append(request)
        return train(request)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "train_command", counted)
    report = reproduce(asked)
    assert len(done) == 3, "both points of SVP are one model, and both of `mine`"
    path, _, page, figure = report.files
    result = read_table(path)
    rows = {row.name: row for row in result.rows if row.cells}
    assert set(rows) == set(ROWS)
    four, sixteen = (rows[f"mine: {n}"] for n in (4, 16))
    assert (four.tokens, sixteen.tokens, sixteen.tokens_most) == (4, 16, 16)
    assert four.cells[0].folder == sixteen.cells[0].folder
    files = (tmp_path / "runs" / four.cells[0].folder).glob("scenes-*-testA.jsonl")
    told = {read_results(file).header.digests["projector options"] for file in files}
    assert told == {"tokens=4", "tokens=16"}
    assert result.seconds["train"] < sum(row.cells[0].seconds["train"] for row in rows.values())
    auto, mean = rows["SVP: auto"], rows["SVP: mean:4"]
    assert auto.cells[0].folder == mean.cells[0].folder
    assert auto.tokens and mean.tokens and mean.tokens < auto.tokens - 2
    divt = rows["DiVT: threshold 0.51"]
    assert divt.tokens and 1 < divt.tokens < 256 and divt.tokens_most
    for row in rows.values():
        (cell,) = row.cells
        assert cell.ms and cell.ms > 0 and cell.flops
    assert (sixteen.cells[0].flops or 0) > (four.cells[0].flops or 0)

    curves = {curve.name: curve for curve in result.curves}
    assert list(curves) == ["SVP", "DiVT", "mine"] and curves["mine"].rows == [
        "mine: 4",
        "mine: 16",
    ]
    assert curves["SVP"].rows == ["SVP: mean:4", "SVP: auto"]
    assert curves["SVP"].over is None and curves["mine"].over is not None
    drawn = ElementTree.fromstring(figure.read_text())
    titles = [found.text or "" for found in drawn.iter() if found.tag.endswith("title")]
    assert sum(title.startswith("mine: ") for title in titles) == 2
    assert "<svg" in page.read_text() and "AUBC" in page.read_text()

    again = reproduce(asked)
    assert len(done) == 3 and again.result.rows == report.result.rows
    more = replace(asked, rows=("mine: 4", "mine: 64"))
    plan = reproduce_or_plan(more, plan_only=True).lines()
    assert (
        "the model of mine: 4" in plan[2] and "0 runs and 1 evaluation of their models" in plan[-1]
    )
