"""`svp reproduce --size world2` from nothing: scenes, caches, one alignment, then rows that start from it."""

from dataclasses import replace
from pathlib import Path

import pytest

from svp.model.projectors import PROJECTORS
from svp.train import cli_defaults
from svp.train.reproduce import run, trials
from svp.train.reproduce.caches import Caches
from svp.train.reproduce.commands import row_commands
from svp.train.reproduce.dry_run import reproduce_or_plan
from svp.train.reproduce.paper_tables import EXPERIMENTS, experiment
from svp.train.reproduce.request import ReproduceRequest, data_of
from svp.train.reproduce.run import reproduce
from svp.train.runs.inputs import TrainRequest

SHORT = (
    "stages.0.steps=1", "stages.0.warmup=0", "stages.1.steps=1", "stages.1.warmup=0",
    "global_batch=2", "run.micro_batch=2",
)  # fmt: skip


@pytest.mark.timeout(240)
def test_rows_start_from_one_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_defaults, "WORLD2_SPLITS", {"train": 3, "testA": 1})
    told: list[TrainRequest] = []
    train = run.train_command

    def one_step(request: TrainRequest) -> object:
        told.append(request)
        short = ("stages.0.steps=1", "stages.0.warmup=0", "global_batch=2", "run.micro_batch=2")
        return train(
            replace(request, overrides=short) if request.size == "align-world2" else request
        )

    monkeypatch.setattr(run, "train_command", one_step)
    monkeypatch.setattr(trials, "train_command", one_step)
    asked = ReproduceRequest(
        table="table1", size="world2", seeds=1, rows=("DeCo", "SVP"), changes=SHORT, device="cpu",
        workers=0,
    )  # fmt: skip
    table = reproduce(asked).result
    assert [one.size for one in told] == ["align-world2", "world2", "world2"]
    assert {one.flags.init for one in told[1:]} == {"runs/reproduce/aligned-world2"}
    rows = {row.name: row for row in table.rows if row.cells}
    assert set(rows) == {"DeCo", "SVP"} and rows["DeCo"].warm == rows["SVP"].warm == 0
    assert rows["DeCo"].tokens == 16 and table.size == "world2"
    deco = 96 * 128 + 128 + 128 * 128 + 128
    answers = 2 * (128 * 64 + 64) + 128 * 64 + 1
    assert rows["DeCo"].parameters == deco + answers
    again = reproduce(asked).result
    assert len(told) == 3 and again.rows == table.rows
    plan = reproduce_or_plan(replace(asked, seeds=2), plan_only=True).lines()
    assert plan[0] == "table1 at size world2" and "1 of 2 seeds done" in plan[1]


@pytest.mark.parametrize("key", [key for key in EXPERIMENTS if key not in ("table2", "table6")])
def test_every_row_learns_token_answers(key: str) -> None:
    for row in experiment(key, "world2").rows:
        if row.untrained or row.not_run:
            continue
        last = row.train[-1]
        assert (last.path, last.value) == ("model.projector.options.token_answers", True)
        names = [one.value["name"] for one in row.train if one.path == "model.projector"]
        assert all(name in PROJECTORS for name in names)


def test_printed_commands_take_the_shipped_recipes(tmp_path: Path) -> None:
    asked = ReproduceRequest(table="table1", size="world2", seeds=1, caches=tmp_path)
    data = data_of(asked)
    lines = row_commands(
        asked, data, experiment("table1", "world2").row("SVP"), Caches(asked, data)
    )
    word = lines[0].split("--recipe ")[1].split()[0]
    assert Path(word).is_file() and Path(word).name == "world2.yaml"
    assert "--init runs/reproduce/aligned-world2" in lines[0]
