"""Loaders of other projects: equal rows or no figures; what is timed, and what is printed."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.small_cache import Made, make_plan, make_rows
from svp.pipeline.bench.baseline import Package
from svp.pipeline.cache import CacheReader
from svp.pipeline.errors import ConfigError
from svp.train.bench import other_loaders
from svp.train.bench import other_loaders_script as script
from svp.train.bench.loader import LoaderBench, _features_alone
from svp.train.bench.other_loaders import (
    DATASET,
    RIVALS,
    UNVERIFIED,
    VERIFIED,
    Comparison,
    compare,
    parse_rivals,
)

ROWS = 40


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    plan = make_plan(ROWS)
    made = Made(tmp_path_factory.mktemp("rows") / "cache", plan, make_rows(plan))
    made.write()
    made.finish()
    return CacheReader(made.path, "always")


def test_names_of_rivals() -> None:
    assert parse_rivals("lance, litdata,lance,") == ("lance", "litdata")
    assert parse_rivals("all,ray") == tuple(RIVALS) and parse_rivals("") == ()
    with pytest.raises(ConfigError, match="rivals=dali: use any of litdata, mosaicml"):
        parse_rivals("litdata,dali")


def test_every_rival_is_pinned_and_has_a_loader() -> None:
    assert RIVALS.keys() == script.LOADERS.keys()
    assert all("==" in package.requirement for package in RIVALS.values())


def test_a_digest_is_of_the_rows_in_any_order_and_of_each_once() -> None:
    rows = np.arange(24, dtype=np.float16).reshape(4, 2, 3)

    def digest(*order: int, rows: Any = rows) -> str:
        return script.digest([(order[:2], rows[[*order[:2]]]), (order[2:], rows[[*order[2:]]])])

    whole = digest(0, 1, 2, 3)
    assert digest(3, 1, 0, 2) == whole
    swapped = script.digest([((1, 0, 2, 3), rows)])
    changed = rows.copy()
    changed[2, 1, 1] += 1
    others = [digest(0, 1, 2), digest(0, 1, 2, 3, 3), swapped, digest(0, 1, 2, 3, rows=changed),
              digest(0, 1, 2, 3, rows=rows.view(np.int16))]  # fmt: skip
    assert len({whole, *others}) == 6


def test_the_first_batches_of_each_iteration_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def epochs() -> Iterator[Iterator[script.Batch]]:
        for _ in range(2):
            yield batches()

    def batches() -> Iterator[script.Batch]:
        for number in range(8):
            clock[0] += 100.0 if number < 2 else 1.0
            yield range(16), None

    answer = script.measure(epochs(), 128, 7.0, lambda: clock[0] / 2)
    assert answer["rate"] == 16.0  # 2 x 6 batches of 16 in 12 seconds
    assert answer["cpu"] == 1000 * 6.0 / 192


def test_cpu_of_ended_processes_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By process: parent, own seconds, seconds of ended children."""
    seen = [
        {1: (0, 1.0, 0.0), 2: (1, 5.0, 0.0), 3: (1, 2.0, 0.0), 4: (3, 4.0, 0.0), 5: (4, 1.0, 0.0)},
        # 2 ended and 1 has its 5.5; 4 ended, which 3 does not note, and 5 with it
        {1: (0, 1.5, 5.5), 3: (1, 2.5, 0.0)},
        {1: (0, 1.5, 5.5), 3: (1, 2.5, 0.0), 6: (1, 1.0, 0.0)},
    ]  # fmt: skip
    monkeypatch.setattr(script.CpuClock, "processes", lambda _: seen.pop(0))
    clock = script.CpuClock()
    assert [clock(), clock(), clock()] == [13.0, 14.5, 15.5]


def test_cpu_of_this_process_and_a_child_that_ended() -> None:
    clock = script.CpuClock()
    before = clock()
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-S", "-c", burn], check=True)
    assert clock() - before >= 0.3  # ticks of 10 ms


class Rival:
    """What `open_baseline` gives; `answers` to rounds, then nothing."""

    def __init__(self, digest: str, answers: Sequence[dict[str, float]]) -> None:
        self.failure: str | None = None
        self._digest, self._answers = digest, [*answers]

    def ask(self, **request: object) -> dict[str, Any]:
        if "check" in request:
            return {"digest": self._digest}
        if not self._answers:
            self.failure = "it crashed"
            return {}
        return self._answers.pop(0)


def test_only_rivals_with_equal_rows_are_timed_and_the_best_counts(
    cache: CacheReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.stack([cache.features(row) for row in range(ROWS)])
    right = script.digest([(range(ROWS), features)])
    rounds = [{"rate": 5.0, "cpu": 7.0}, {"rate": 9.0, "cpu": 8.0}]
    opened: dict[str, Any] = {
        "litdata": Rival(right, rounds), "mosaicml": Rival(right[::-1], rounds),
        "lance": "no such package", "ray": Rival(right, rounds[:1]),
    }  # fmt: skip

    @contextmanager
    def open_baseline(package: Package, command: list[object], *rest: object) -> Iterator[Any]:
        assert command[0] == script.__file__ and command[-1] == 2
        yield opened[package.name]

    monkeypatch.setattr(other_loaders, "open_baseline", open_baseline)
    monkeypatch.setattr(other_loaders, "SECONDS", 0.01)
    monkeypatch.setattr(other_loaders, "_timed_workers", lambda *_: (2.0, 3.0))
    found = compare(cache, tuple(opened), tmp_path, reps=2, threads=2, stream=_features_alone)
    assert list(found.rates) == list(found.cpu)
    assert list(found.rates) == [VERIFIED, UNVERIFIED, DATASET, RIVALS["litdata"].title]
    assert found.rates[RIVALS["litdata"].title] == 9.0
    assert found.cpu[RIVALS["litdata"].title] == 7.0
    assert found.rates[DATASET] == 2.0 and found.rates[VERIFIED] > 0 < found.cpu[UNVERIFIED]
    assert found.failures == {
        RIVALS["mosaicml"].title: "its rows are not the cache's",
        RIVALS["lance"].title: "no such package",
        RIVALS["ray"].title: "it crashed",
    }


def test_the_report_has_ratios_targets_and_what_is_missing() -> None:
    litdata, mosaic = RIVALS["litdata"].title, RIVALS["mosaicml"].title
    others = Comparison(
        {VERIFIED: 3000.0, litdata: 500.0, mosaic: 1000.0}, {VERIFIED: 0.5, litdata: 2.0, mosaic: 1.0},
        {"Lance take": "no\nroom"}, (3.0, 4.5),
    )  # fmt: skip
    lines = others.lines(2)
    assert "2 threads or worker processes, load average 3.0 to 4.5" in lines[0]
    assert lines[2].split() == [*litdata.split(), "500", "img/s", "2.00", "ms", "6.0", "4.0"]
    assert lines[-1] == "  Lance take: not measured: no\\nroom"
    targets = others.targets()
    assert [(t.value, t.target, t.passed) for t in targets] == [(6.0, 5.0, True), (3.0, 4.0, False)]
    made = LoaderBench(8, 2, others=others, targets=targets)
    assert made.exit_code == 1 and lines[2] in made.lines()


@pytest.mark.slow
def test_worker_processes_are_timed_with_their_cpu(
    cache: CacheReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_loaders, "SECONDS", 0.01)
    rate, cpu = other_loaders._timed_workers(cache.path, 2)
    assert rate > 0 < cpu


@pytest.mark.slow
def test_the_script_gives_the_rows_and_a_round(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("pandas")
    features = np.random.default_rng(0).random((64, 4, 8)).astype(np.float16)
    np.save(tmp_path / "features.npy", features)
    command = [script.__file__, "ray", tmp_path / "ray", tmp_path / "features.npy", 2]
    done = subprocess.run(
        [sys.executable, "-P", *map(str, command)],
        input='{"check": true}\n{"seed": 0, "seconds": 0.01}\n',
        capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    check, answer = map(json.loads, done.stdout.splitlines())
    assert check == {"digest": script.digest([(range(64), features)])}
    assert answer["rate"] > 0 < answer["cpu"]
