"""A process group ends with the work it was joined for, not with the interpreter."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.errors import CacheError, Interrupted, NonFiniteError, SvpError
from svp.train.distributed import process_group


class Nothing:
    """A report."""

    def lines(self) -> list[str]:
        return ["joined" if dist.is_initialized() else "ended"]


@pytest.fixture
def join(tmp_path: Path) -> Callable[..., Nothing]:
    """What a command does in one of several processes: join a group and let tensors travel."""

    def work(*_: object) -> Nothing:
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        dist.all_reduce(torch.ones(3))
        assert gloo()
        return Nothing()

    return work


def gloo() -> list[str]:
    """This process's threads that carry tensors between ranks."""
    tasks = Path("/proc/self/task").glob("*/comm")
    return [name for name in (task.read_text() for task in tasks) if "gloo" in name]


@pytest.mark.parametrize("error", [None, Interrupted(2, "again"), NonFiniteError("step 3")])
def test_group_and_its_threads_end_with_the_work(
    error: SvpError | None, join: Callable[..., Nothing]
) -> None:
    """Also after what all ranks raise together."""
    with pytest.raises(type(error)) if error else nullcontext(), process_group():
        join()
        if error:
            raise error
    assert not dist.is_initialized() and not gloo()


def test_one_ranks_error_does_not_wait_for_the_others(join: Callable[..., Nothing]) -> None:
    """NCCL takes a group down together; a rank that failed must go at once."""
    with pytest.raises(CacheError), process_group():
        join()
        raise CacheError("damaged")
    assert dist.is_initialized()
    dist.destroy_process_group()


def test_without_a_group_nothing_happens() -> None:
    with process_group():
        pass
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("work", "arguments"),
    [
        ("runs.train.train_command", ["train", "--from-cache", "x"]),
        ("runs.quickstart.quickstart", ["quickstart"]),
        ("runs.evaluate.eval_command", ["eval", "--split", "testA"]),
    ],
)
def test_commands_end_the_group(
    work: str, arguments: list[str], join: Callable[..., Nothing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"svp.train.{work}", join)
    for early in ("train.require_caches", "evaluate.require_model"):  # there is neither
        monkeypatch.setattr(f"svp.train.commands.{early}", lambda *_: None)
    result = CliRunner().invoke(main, arguments)
    assert result.output == "ended\n", result.exception
