"""Trackers by `--log`: names, missing packages, what they are told, and a run that goes on."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState

from svp.pipeline.errors import ConfigError, MissingPackageError
from svp.train.recipe import CONFIG
from svp.train.trainer.run_folder import RunFolder
from svp.train.trainer.trackers import chosen_trackers

WANDB = '''
"""As much of wandb as accelerate's tracker calls."""
import __main__, types
calls = __main__.tracker_calls
config = types.SimpleNamespace(update=lambda values, **_: calls.append(("config", values)))
class Run:
    def log(self, values, step=None): calls.append(("log", step, values))
    def finish(self): calls.append(("finish",))
def init(**options):
    if options["id"] == "refused":
        raise RuntimeError("api_key not configured")
    calls.append(("init", options))
    return Run()
'''


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What a stand-in for wandb is told."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    found: list[Any] = []
    monkeypatch.setattr(sys.modules["__main__"], "tracker_calls", found, raising=False)
    yield found
    sys.modules.pop("wandb", None)


def run_in(path: Path, trackers: tuple[str, ...]) -> RunFolder:
    PartialState(cpu=True)  # a run has an accelerator before it has a folder
    path.mkdir()
    (path / CONFIG).write_text("name: x\nmodel: {dtype: float32, lora: {r: 2, targets: [q, v]}}\n")
    return RunFolder(path, trackers=trackers)


def test_names() -> None:
    assert chosen_trackers("none") == ()
    assert chosen_trackers("tensorboard, tensorboard") == ("tensorboard",)
    assert chosen_trackers(None) == ("tensorboard",)
    for asked in ("tensorbord", "tensorboard,none", ""):
        with pytest.raises(ConfigError, match=r"is no tracker: name some of tensorboard, wandb"):
            chosen_trackers(asked)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svp.train.trainer.trackers.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=rf"--log {name} needs {name}: .*svp\[{name}\]"):
        chosen_trackers(f"{name}")
    assert chosen_trackers(None) == ()


def test_a_tracker_gets_the_numbers_the_recipe_and_the_run_s_name(
    tmp_path: Path, calls: list[Any]
) -> None:
    assert chosen_trackers("wandb") == ("wandb",)
    folder = run_in(tmp_path / "tiny-1", ("wandb",))
    folder.open(0)
    folder.track(1, {"rate/images": 2.0})
    folder.metrics(1, {"loss": 0.5, "stage": "align"})
    folder.close()
    folder.close()
    options = {"project": "svp", "name": "tiny-1", "id": "tiny-1", "resume": "allow"}
    assert calls == [
        ("init", options | {"dir": tmp_path / "tiny-1"}),
        ("config", {"name": "x", "model.dtype": "float32", "model.lora.r": 2,
                    "model.lora.targets": "['q', 'v']"}),
        ("log", 1, {"rate/images": 2.0}),
        ("log", 1, {"loss": 0.5}),
        ("finish",),
    ]  # fmt: skip


@pytest.mark.usefixtures("calls")
def test_a_tracker_that_refuses_is_one_clear_error(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "refused", ("wandb",))
    with pytest.raises(ConfigError, match=r"--log wandb: .*api_key not configured: set it up"):
        folder.open(0)


def test_tensorboard_forgets_what_came_after_the_resumed_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run_in(tmp_path / "run", ("tensorboard",))
    for start, losses in ((0, (1.0, 2.0, 3.0)), (2, (30.0, 40.0))):
        folder.open(start)
        for step, loss in enumerate(losses, start + 1):
            folder.metrics(step, {"loss": loss, "held-out/gIoU": 50.0, "stage": "one"})
        folder.close()
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == ["tensorboard"]
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "held-out/gIoU"}
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [
        (1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0),
    ]  # fmt: skip


def test_a_tracker_that_fails_ends_itself_and_not_the_run(tmp_path: Path) -> None:
    """Its numbers are in metrics.jsonl; the others go on."""

    class Tracker:
        def __init__(self, name: str, fails: bool) -> None:
            self.name, self.fails, self.told = name, fails, []  # type: ignore[var-annotated]

        def log(self, values: dict[str, float], step: int) -> None:
            if self.fails:
                raise ConnectionError("no route to host")
            self.told.append((step, values))

        def finish(self) -> None:
            raise ConnectionError("no route to host")

    run = run_in(tmp_path / "run", ())
    broken, sound = Tracker("wandb", fails=True), Tracker("mlflow", fails=False)
    run._trackers += [broken, sound]
    run.metrics(1, {"loss": 2.0, "held-out/P@0.5": 0.25})
    run.metrics(2, {"loss": 1.0})
    run.close()
    assert sound.told == [(1, {"loss": 2.0, "held-out/P_0.5": 0.25}), (2, {"loss": 1.0})]
    text = (run.path / "log.txt").read_text()
    assert text.count("--log wandb fails") == 1 and text.count("--log mlflow fails") == 1
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 2
