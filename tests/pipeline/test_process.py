"""A signal is never lost, and the command that a stop prints can be pasted into a shell."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from svp.pipeline import process
from svp.pipeline.errors import Interrupted, describe
from svp.pipeline.process import SIGNALS, Stop, resuming, started_by

ARGV = ["/x/bin/svp", "train", "--set", "model.shape={hidden: 32}", "--runs", "a b"]


def test_a_machine_without_a_driver_is_a_cpu_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(process, "DRIVERS", (str(tmp_path / "nvidiactl"),))
    assert process.pick_device("auto") == "cpu"
    assert "torch" not in sys.modules
    there = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", there)
    assert process.pick_device("auto") == "cuda", "torch knows better, where it is there"
    assert process.pick_device("cpu") == "cpu"


def test_work_on_the_next_item_overlaps_and_results_keep_their_order() -> None:
    begun = [threading.Event() for _ in range(5)]

    def work(number: int) -> int:
        begun[number].set()
        return number * number

    for number, square in enumerate(process.overlapped(work, range(5))):
        assert square == number * number
        assert begun[min(number + 1, 4)].wait(30), "the next one is at work meanwhile"
        assert not any(event.is_set() for event in begun[number + 2 :]), "and no further one"


def test_a_failure_in_the_second_thread_comes_where_its_result_would() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = process.overlapped(work, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)


def test_closing_waits_for_the_item_at_work() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.05)
        done.append(number)
        return number

    found = process.overlapped(work, range(5))
    assert next(found) == 0
    found.close()
    assert done == [0, 1]
    assert not [one for one in threading.enumerate() if one.name.startswith("svp-overlapped")]


def test_quoted_for_a_shell() -> None:
    words = started_by(ARGV, {}, ["bash"])
    assert words == ["svp", *ARGV[1:]]
    assert shlex.split(shlex.join(words)) == words


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (
            ["/v/bin/python3.11", "/v/bin/accelerate", "launch", "--cpu", "-m", "svp", *ARGV[1:]],
            ["accelerate", "launch", "--cpu", "-m", "svp", *ARGV[1:]],
        ),
        (
            ["/v/bin/python", "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "svp",
             *ARGV[1:]],
            ["python", "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "svp",
             *ARGV[1:]],
        ),
        ([], ["accelerate", "launch", "--num_processes", "2", "-m", "svp", *ARGV[1:]]),
        (["sshd"], ["accelerate", "launch", "--num_processes", "2", "-m", "svp", *ARGV[1:]]),
    ],
)  # fmt: skip
def test_under_a_launcher(parent: list[str], expected: list[str]) -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}
    assert started_by(["/x/svp/__main__.py", *ARGV[1:]], environment, parent) == expected


@pytest.mark.parametrize("old", ["", " --resume auto", " --resume=runs/y", " --resume 'runs/a b'"])
def test_resuming_keeps_all_else(old: str) -> None:
    """What stands after --resume is kept too."""
    command = f"svp train --from-cache{old} --size paper --set 'a=[1, 2]'"
    assert resuming(command, "runs/x y") == (
        "svp train --from-cache --size paper --set 'a=[1, 2]' --resume 'runs/x y'"
    )


def test_a_long_command_is_not_cut() -> None:
    command = "svp train " + " ".join(f"--set stages.0.steps={n}" for n in range(500))
    assert describe(Interrupted(2, command)) == command


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_before_the_work_began(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """No `Aborted!`: the command, and the exit code of the signal."""
    waits = (
        "import signal, sys, time, svp.train.runs.train as launch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a script ignores it\n"
        "def wait(request):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "launch.train_command = wait\n"
        "import svp.train.commands.train as command\n"
        "command.require_caches = lambda *_: None  # there is none\n"
        "from svp.cli import main\n"
        "main()\n"
    )
    words = ["train", "--from-cache", "x y", "--size", "tiny", "--set", "seed=3"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE")}
    process = subprocess.Popen(
        [sys.executable, "-c", waits, *words], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert said.strip() == (
        f"svp: stopped by {number.name}. "
        "To resume: svp train --from-cache 'x y' --size tiny --set seed=3"
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_last_look_is_told_at_the_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="kept.*To resume: again") as stopped, Stop("again"):
        os.kill(os.getpid(), number)
    assert stopped.value.signum == number
    assert signal.getsignal(number) == before


def test_an_error_of_the_block_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(OSError, match="full"), Stop("again"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("full")


def test_without_a_signal_nothing_is_raised() -> None:
    with Stop("again") as stop:
        stop.check()
    assert stop.received is None
