"""`svp train --runs s3://...` and the commands that read such a run, on four generated scenes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.object_server import ObjectServer
from svp.cli import main
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import CacheError, MissingError
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.store import open_store
from svp.train.options import DataRequest, TrainFlags, TrainRequest
from svp.train.runs import inputs
from svp.train.runs.evaluate import EvalRequest, eval_command
from svp.train.runs.segmenter import load
from svp.train.runs.train import completed, train_command
from svp.train.trainer.run_folder import RunFolder

SMALL = (
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0={name: align, steps: 2, warmup: 0, add_sspe: false}",
    "stages.1={name: finetune, steps: 1, warmup: 0, lora: true}",
    "global_batch=2",
    "run={micro_batch: 1, gradient_checkpointing: false, preview: 0, checkpoint: 1, log: 1}",
)
RUNS = "s3://tests/runs"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `scenes` and `cache`, four images of its train split."""
    root = tmp_path_factory.mktemp("world")
    write_scenes(root / "scenes", images=20, seed=3)
    request = precompute.Request(
        dataset=str(root / "scenes"), split="train", out=root / "cache", quiet=True,
        flags=Flags(points_per_side=8, store_sam_embeddings=True),
        run=RunOptions(workers=0, limit=4),
    )  # fmt: skip
    precompute.launch(request, precompute.open_request(request))
    return root


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`machine(name)` goes to another machine: its cache and current folder have no run."""

    def go(name: str) -> None:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name / "home"))

    go("one")
    return go


@pytest.fixture
def asked(world: Path, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> TrainRequest:
    monkeypatch.setattr(inputs, "TABLES", world / "tables")
    return TrainRequest(
        caches=(world / "cache",), data=DataRequest(dataset=str(world / "scenes")),
        flags=TrainFlags(lm="random:0", sam_decoder="shipped"), overrides=SMALL, partial=True,
        runs=open_store(RUNS), device="cpu", log="none",
        hint="svp train --resume auto --runs s3://tests/runs",
    )  # fmt: skip


def svp(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_run_goes_on_on_another_machine_and_is_read_from_there(
    asked: TrainRequest, world: Path, machine: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture, tmp_path: Path,
) -> None:  # fmt: skip
    local = train_command(replace(asked, runs=tmp_path / "runs"))

    # The machine goes away in the second step.
    plain = RunFolder.metrics

    def lost(self: RunFolder, step: int, values: dict[str, float]) -> None:
        if step == 2:
            raise RuntimeError("the machine is lost")
        plain(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "metrics", lost)
        with pytest.raises(RuntimeError, match="the machine is lost"):
            train_command(asked)
    machine("two")
    report = train_command(completed(replace(asked, resume="auto")))
    assert report.images == 2 * 2 and report.steps == 3
    name = report.folder.name
    assert report.address == f"{RUNS}/{name}" and f"run folder: {RUNS}/{name}" in logged.messages
    assert report.next[0].startswith(f"svp eval --checkpoint {RUNS}/{name}")
    store = open_store(report.address)
    assert store.read("metrics.jsonl", 10**6) == (local.folder / "metrics.jsonl").read_bytes()
    small = {key for key, _ in store.sizes() if "/" not in key}
    assert small == {
        "config.yaml", "data.json", "env.json", "metrics.jsonl", "log.txt", "status.json",
    }  # fmt: skip

    # Every command reads it, on a machine that has neither trained nor read it.
    machine("three")
    ask = EvalRequest(
        data=asked.data, split="train", caches=asked.caches, bounds=False, device="cpu",
        checkpoint=local.folder,
    )  # fmt: skip
    here = eval_command(ask)
    there = eval_command(replace(ask, checkpoint=None, runs=open_store(RUNS)))
    assert here.files[0].read_bytes() == there.files[0].read_bytes()
    key = "eval/train-full-1.jsonl"
    assert store.read(key, 10**7) == here.files[0].read_bytes()
    assert f"sent to: {report.address}/{key}" in there.lines()
    machine("four")
    again = eval_command(replace(ask, checkpoint=store))
    assert f"sent to: {report.address}/eval/train-full-2.jsonl" in again.lines()

    results = f"{report.address}/{key}"
    shown = svp("eval", "--from-results", results)
    assert shown.exit_code == 0 and "gIoU" in shown.output, shown.output
    missing = svp("eval", "--from-results", f"{results}.gone")
    assert missing.exit_code == 3 and f"{results}.gone: no such file" in missing.stderr
    options = ("--runs", RUNS, "--cache", world / "cache")
    made = svp("export", "exported", "--results", results, *options)
    assert made.exit_code == 0 and "gIoU" in Path("exported/README.md").read_text(), made.output
    photo = next((world / "scenes" / "images").iterdir())
    shown = svp("predict", photo, "the disc", *options, "--size", "tiny", "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    model = load(report.address, device="cpu", size="tiny", cache=world / "cache")
    assert model.digests["checkpoint"] == there.header.digests["checkpoint"]
    figures = ("--from-cache", world / "cache", "--dataset", world / "scenes", "--device", "cpu")
    drawn = svp("figures", RUNS, *figures)
    assert drawn.exit_code == 0 and Path("figures", name, "index.html").exists(), drawn.output
    # Nothing of it is on this machine any more.
    shutil.rmtree("home")
    assert json.loads(svp("train", "--resume", report.address, "--log", "none", "--device", "cpu",
                          "--json").stdout)["images"] == 0  # fmt: skip


def test_an_address_that_refuses_is_told_before_the_work(
    asked: TrainRequest, machine: Callable[[str], None], s3: ObjectServer
) -> None:
    s3.set(refuse="AccessDenied")
    with pytest.raises(CacheError, match="access refused .HTTP 403 AccessDenied"):
        train_command(asked)
    s3.set(ignore_create=True)
    with pytest.raises(CacheError, match="the service has no create-only writes"):
        train_command(asked)
    s3.set()
    with pytest.raises(MissingError, match="no trained model in s3://tests/runs: name one"):
        eval_command(EvalRequest(runs=open_store(RUNS), device="cpu"))
    refused = svp("export", "out", "--checkpoint", f"{RUNS}/none")
    assert refused.exit_code == 3 and "neither a checkpoint nor a run with one in it" in (
        refused.stderr
    )
    for words in (("quickstart", "--runs", RUNS), ("reproduce", "table5", "--runs", RUNS)):
        refused = svp(*words)
        assert refused.exit_code == 2 and "give a path of this machine" in refused.stderr
    assert not list(Path().iterdir())
