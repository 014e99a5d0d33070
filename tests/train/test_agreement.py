"""Two ranks that find different files decide, compare and fail together; none waits for the other."""

import json
import os
import subprocess
from typing import Any

import pytest

from support import forked

PROGRAM = """
import json, os, sys
import torch.distributed as dist
from svp.pipeline.errors import ConfigError, MissingError, MissingPackageError
from svp.train.distributed import agree, decided, first_then_others, process_group, together

rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
found = {}

def attempt(name, work):
    try:
        found[name] = work()
    except Exception as error:
        found[name] = [type(error).__name__, str(error), getattr(error, "everywhere", False)]

def fails(error, only=None):
    with together("step"):
        if only in (None, rank):
            raise error
    return "passed"

def never():
    raise AssertionError("asked on another rank")

def inner():  # rank 1 fails where rank 0 waits for an answer
    with together("outer"):
        if rank == 1:
            raise MissingError("no folder")
        return decided("newest", lambda: "mine")

def missing():
    raise MissingError("nothing here")

order = []
attempt("all well", lambda: fails(ConfigError("x"), only=7))
attempt("rank 1 fails", lambda: fails(MissingError("no cache"), only=1))
attempt("all fail alike", lambda: fails(ConfigError("seed=x")))
attempt("all fail", lambda: fails(ConfigError(f"rank {rank}")))
attempt("package", lambda: fails(MissingPackageError("fsspec", "data", "parquet"), only=1))
attempt("a bug", lambda: fails(KeyError("name"), only=1))
attempt("decided", lambda: decided("newest", (lambda: "run-7") if rank == 0 else never))
attempt("decided fails", lambda: decided("newest", missing))
attempt("inside", inner)
attempt("agree", lambda: agree("data", {"table": "a", "cache 0": "b"}))
attempt("disagree", lambda: agree("data", {"table": "abc"[rank], "cache 0": "b"}))
attempt("ways", lambda: decided("one" if rank else "other", lambda: "x"))
attempt("first", lambda: first_then_others("table", lambda: os.path.exists("made") or open("made", "w").close()))
attempt("after all", lambda: decided("newest", lambda: "still in step"))
print(json.dumps(found))
with process_group():
    pass
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks got, by step."""
    folder = tmp_path_factory.mktemp("ranks")
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    env["MASTER_PORT"] = str(29600 + os.getpid() % 2000)
    started = [
        subprocess.Popen([forked.python(), "-c", PROGRAM], env=env | {"RANK": str(rank)}, cwd=folder,
                         text=True, stdout=subprocess.PIPE)
        for rank in range(2)
    ]  # fmt: skip
    return [json.loads(process.communicate(timeout=120)[0]) for process in started]


def both(ranks: list[dict[str, Any]], name: str) -> Any:
    one, other = (found[name] for found in ranks)
    assert one == other
    return one


def test_an_error_of_one_rank_is_raised_on_both(ranks: list[dict[str, Any]]) -> None:
    assert both(ranks, "all well") == "passed"
    kind, text, everywhere = both(ranks, "rank 1 fails")
    assert (kind, everywhere) == ("MissingError", True)
    assert text.startswith("process 1 (on ") and text.endswith("): no cache")
    assert both(ranks, "all fail alike") == ["ConfigError", "seed=x", True]
    kind, text, _ = both(ranks, "all fail")
    assert kind == "ConfigError" and "process 0" in text
    assert text.endswith("rank 0 (and 1 other process fails)")
    kind, text, _ = both(ranks, "package")
    assert kind == "MissingError" and "svp[data]" in text


def test_a_fault_of_the_program_keeps_its_traceback_where_it_happened(
    ranks: list[dict[str, Any]],
) -> None:
    assert ranks[1]["a bug"] == ["KeyError", "'name'", False]
    kind, text, _ = ranks[0]["a bug"]
    assert kind == "SvpError" and "process 1" in text and "KeyError: 'name'" in text


def test_the_first_rank_decides(ranks: list[dict[str, Any]]) -> None:
    assert both(ranks, "decided") == "run-7"
    kind, text, _ = both(ranks, "decided fails")
    assert kind == "MissingError" and text.endswith("nothing here")
    kind, text, _ = both(ranks, "inside")
    assert kind == "MissingError" and "process 1" in text
    assert [found["first"] for found in ranks] == [None, True]


def test_ranks_that_read_different_things_are_told_apart(ranks: list[dict[str, Any]]) -> None:
    assert both(ranks, "agree") is None
    kind, text, _ = both(ranks, "disagree")
    assert kind == "PlanMismatchError" and "process 1" in text
    assert "table: b there, a in process 0" in text and "cache 0" not in text
    kind, text, _ = both(ranks, "ways")
    assert kind == "SvpError" and "do not see the same files" in text
    assert both(ranks, "after all") == "still in step"
