"""`svp reproduce` from nothing to the page, with two steps on four scenes; then again for nothing."""

from dataclasses import replace
from statistics import mean, stdev

import pytest

from svp.pipeline.errors import DataError, Interrupted
from svp.train import cli_defaults
from svp.train.evaluation.results import read_results
from svp.train.metrics import metrics
from svp.train.reproduce import trials
from svp.train.reproduce.dry_run import reproduce_or_plan
from svp.train.reproduce.request import ReproduceRequest
from svp.train.reproduce.results import read_table
from svp.train.reproduce.run import TableReport, reproduce

MICRO = (
    "model.init=none", "model.lm=random:0", "model.sam_decoder=shipped",
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0.steps=1", "stages.0.warmup=0", "stages.1.steps=1", "stages.1.warmup=0",
    "global_batch=2", "run.micro_batch=2", "run.preview=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> ReproduceRequest:
    root = tmp_path_factory.mktemp("reproduce")
    return ReproduceRequest(
        table="table1", seeds=2, changes=MICRO, out=root / "results", runs=root / "runs",
        caches=root / "caches", device="cpu", workers=0,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def few_scenes(request_: ReproduceRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_defaults, "DATA", request_.out.parent / "scenes")
    monkeypatch.setattr(cli_defaults, "SPLITS", {"train": 3, "val": 1, "testA": 2})
    monkeypatch.chdir(request_.out.parent)


def test_rows_one_by_one_then_all_of_it_for_nothing(
    request_: ReproduceRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    train = trials.train_command

    def counted(request: object) -> object:
        done.append("run")
        if len(done) == 2:
            raise Interrupted(2, "stopped")
        return train(request)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "train_command", counted)
    two = replace(request_, rows=("DeCo", "SVP"))
    with pytest.raises(Interrupted):
        reproduce(two)
    first = reproduce(replace(request_, rows=("DeCo",)))
    assert len(done) == 3, "seed 0 was kept, seed 1 made"
    assert [row.name for row in first.result.rows if row.cells] == ["DeCo"]
    assert not first.result.claims

    both = reproduce(two)
    assert len(done) == 5
    check(both, request_)
    again = reproduce(two)
    assert len(done) == 5 and again.result.rows == both.result.rows
    assert not list(request_.out.glob("table1-tiny.json")), "a changed recipe has a name of its own"

    plan = reproduce_or_plan(replace(two, seeds=3), plan_only=True).lines()
    assert plan[1].startswith("DeCo") and "2 of 3 seeds done" in plan[1]
    assert "2 runs to do" in plan[-1] and len(done) == 5

    record = request_.runs / both.result.rows[-2].cells[0].folder / "cell.json"
    record.write_text("{}")
    with pytest.raises(DataError, match=r"cell\.json.*remove it"):
        reproduce(two)
    assert read_table(both.files[0]) == both.result, "what is known is never written over"


def check(report: TableReport, request_: ReproduceRequest) -> None:
    """What the table says is what its cells' result files say."""
    result = report.result
    path, text, page = report.files
    assert read_table(path) == result
    rows = {row.name: row for row in result.rows}
    assert set(rows) >= {"SVP", "DeCo", "PVTC"} and rows["PVTC"].not_run == "not run yet"
    for name in ("SVP", "DeCo"):
        row = rows[name]
        folders = [request_.runs / cell.folder for cell in row.cells]
        found = [metrics(read_results(f / "scenes-testA.jsonl").counts) for f in folders]
        score = row.scores["scenes-testA"]["gIoU"]
        assert row.value == pytest.approx(mean(one["gIoU"] for one in found))
        assert score.value == pytest.approx(row.value)
        assert score.sd == pytest.approx(stdev(one["gIoU"] for one in found))
        assert score.low <= score.value <= score.high
        assert row.seconds > 0
        for cell in row.cells:
            assert set(cell.digests) == {
                "recipe", "checkpoint", "cache train", "cache scenes-testA"
            }  # fmt: skip
    assert rows["DeCo"].tokens == 16 and rows["SVP"].tokens != 16
    assert rows["SVP"].full == 52_373_376
    assert rows["DeCo"].parameters == 96 * 32 + 32 + 32 * 32 + 32
    assert rows["SVP"].warm == 0, "nothing of a random language model fits"
    shared = {row.cells[0].digests["cache train"] for row in (rows["SVP"], rows["DeCo"])}
    assert len(shared) == 1 and len(list(request_.caches.glob("tiny-train-*/plan.json"))) == 1
    (claim,) = result.claims
    assert (claim.better, claim.worse) == ("SVP", "DeCo")
    values = [rows[name].value or 0 for name in ("SVP", "DeCo")]
    assert claim.value == pytest.approx(values[0] - values[1]) and claim.low <= claim.high
    assert claim.paper == pytest.approx(77.5125 - 70.6125)
    written = text.read_text()
    assert f"| SVP | {rows['SVP'].tokens:.1f} |" in written and "not run: not run yet" in written
    html = page.read_text()
    assert "SVP &gt; DeCo" in html and "stages.0.steps=1" in html
    assert result.seconds["caches"] > 0
