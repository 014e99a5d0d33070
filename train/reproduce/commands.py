"""Shell commands equivalent to a trial, and `accelerate launch` as a child process.

They use the same folders as `svp reproduce`, so each finds the results of the other.
"""

import importlib.resources
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...pipeline.errors import SvpError
from ...pipeline.io.yaml_files import Override
from ...pipeline.process import Stop
from ..cli_defaults import WORLD2
from .caches import Caches
from .experiment import Row
from .request import Column, Data, ReproduceRequest
from .trial_folder import Place, place

log = logging.getLogger(__name__)


def precompute_words(
    request: ReproduceRequest, row: Row, dataset: str, split: str, out: Path
) -> list[str]:
    """`svp precompute` of one split of a row."""
    words = [
        "svp",
        "precompute",
        *_size(request, "precompute"),
        "--split",
        split,
        "--dataset",
        dataset,
    ]
    words += ["--root", str(request.root or "DATA")] if request.size == "paper" else []
    words += ["--for", "train", *_sets(row.cache)]
    words += _given(
        ("--mode", request.mode), ("--dtype", request.dtype), *_device(request),
        ("--executor", request.executor if request.executor != "local" else None),
        ("--workers", request.workers), ("--threads", request.threads if request.threads > 1 else None),
        ("--ray-address", request.ray_address), ("--dask-scheduler", request.dask_scheduler),
    )  # fmt: skip
    return [*words, "--out", str(out)]


def train_words(
    request: ReproduceRequest, data: Data, row: Row, at: Place, cache: Path
) -> list[str]:
    """`svp train` of one row and seed, under `accelerate launch` for several processes."""
    words = [*_start(request), "train", *_size(request, "train"), "--from-cache", str(cache)]
    words += [*_data(request, data.dataset), *_weights(request, at), "--seed", str(at.seed)]
    words += [*_sets((*row.train, *request.changes)), *_given(*_device(request))]
    return [*words, "--runs", str(at.folder), "--resume", "auto"]


def eval_words(
    request: ReproduceRequest, row: Row, at: Place, columns: Mapping[Column, Path]
) -> list[str]:
    """`svp eval` of splits of one data set with their caches, for a row and seed."""
    first, *more = columns
    out = at.results(first, request.protocol)
    if more:  # svp eval adds the split to the name
        out = out.with_name(f"{out.stem.removesuffix(f'-{first.split}')}.jsonl")
    words = [*_start(request), "eval", *_caches(columns.values()), *_data(request, first.dataset)]
    words += ["--split", ",".join(column.split for column in columns)]
    model = ["--runs", str(at.folder), *_weights(request, at)]
    words += ["--published", request.published] if row.untrained else model
    bounds = at.seed == 0 and not at.asked
    words += ["--protocol", request.protocol, *([] if bounds else ["--no-bounds"])]
    words += [*_sets(row.evaluate), *_given(("--budget", row.budget or None))]
    return [*words, *_given(*_device(request)), "--out", str(out)]


def row_commands(
    request: ReproduceRequest, data: Data, row: Row, caches: Caches
) -> tuple[str, ...]:
    """Training and evaluation of all seeds of a row, a line of shell each."""
    return (
        *training_commands(request, data, row, caches),
        *_evaluations(request, data, row, caches),
    )


def training_commands(
    request: ReproduceRequest, data: Data, row: Row, caches: Caches
) -> tuple[str, ...]:
    """Training of all seeds of a row, none of one that is evaluated as published.

    Before it the orders of the caches of a row at a budget.
    """
    if row.untrained:
        return ()
    cache = caches.path(row, data.dataset, "train")
    orders = [["svp", "cache", "order", str(cache)]] if row.budget else []
    for column in data.columns if row.budget else ():
        held_out = caches.path(row, column.dataset, column.split)
        orders.append(["svp", "cache", "order", str(held_out), "--prior", str(cache)])
    places = (place(request, row, seed, cache) for seed in row.seeds(request.seeds))
    trainings = [train_words(request, data, row, at, cache) for at in places]
    return tuple(shlex.join(words) for words in (*orders, *trainings))


def _evaluations(
    request: ReproduceRequest, data: Data, row: Row, caches: Caches
) -> tuple[str, ...]:
    lines = []
    for seed in row.seeds(request.seeds):
        cache = caches.path(row, data.dataset, "train")
        at = place(request, row, seed, cache)
        for dataset in dict.fromkeys(column.dataset for column in data.columns):
            own = [column for column in data.columns if column.dataset == dataset]
            paths = {column: caches.path(row, dataset, column.split) for column in own}
            lines.append(eval_words(request, row, at, paths))
    return tuple(shlex.join(words) for words in lines)


def _size(request: ReproduceRequest, kind: str) -> list[str]:
    """A size of the commands `kind`, or the shipped recipe of this name."""
    if request.size == WORLD2:
        recipes = importlib.resources.files("svp") / "workflows" / kind
        return ["--recipe", str(recipes / f"{WORLD2}.yaml")]
    return ["--size", request.size]


def _start(request: ReproduceRequest) -> list[str]:
    if request.processes == 1:
        return ["svp"]
    cpu = ["--cpu"] if request.device == "cpu" else []
    return ["accelerate", "launch", *cpu, "--num_processes", str(request.processes), "-m", "svp"]


def _caches(paths: Iterable[Path]) -> list[str]:
    return [word for path in paths for word in ("--from-cache", str(path))]


def _data(request: ReproduceRequest, dataset: str) -> list[str]:
    root = ["--root", str(request.root or "DATA")] if request.size == "paper" else []
    return ["--dataset", dataset, *root]


def _weights(request: ReproduceRequest, at: Place) -> list[str]:
    return _given(("--init", request.start), ("--sam-decoder", at.flags.sam_decoder))


def _device(request: ReproduceRequest) -> tuple[tuple[str, str | None], ...]:
    return (("--device", request.device if request.device != "auto" else None),)


def _given(*options: tuple[str, object]) -> list[str]:
    return [word for flag, value in options if value is not None for word in (flag, str(value))]


def _sets(overrides: Sequence[Override | str]) -> list[str]:
    return [word for override in overrides for word in ("--set", str(override))]


LAUNCH = ("accelerate", "launch")


def started(words: Sequence[str], request: ReproduceRequest) -> None:
    """Run a command of `script` to its end. Raises SvpError if it fails, Interrupted if stopped.

    A signal to this process goes to the launcher once; the ranks then write their checkpoint.
    """
    assert tuple(words[:2]) == LAUNCH
    log.info(shlex.join(words))
    real = [sys.executable, "-m", "accelerate.commands.launch", *words[2:]]
    with Stop(request.hint, kept="the last checkpoint is kept") as stop:
        # A group of its own: a terminal's Ctrl-C would reach every rank beside what we send.
        child = subprocess.Popen(real, start_new_session=True)
        try:
            code = _wait(child, stop)
        except BaseException:  # a second signal: end everything at once
            os.killpg(child.pid, signal.SIGKILL)
            raise
        stop.check()
    if code != 0:
        raise SvpError(f"exit code {code} of: {shlex.join(words)} (its own message is above)")


def _wait(child: "subprocess.Popen[bytes]", stop: Stop) -> int:
    """Its exit code; the first signal that comes is handed on, once."""
    told = False
    while True:
        try:
            return child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if stop.received is not None and not told:
                child.send_signal(signal.SIGTERM)
                told = True
