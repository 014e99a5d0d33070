"""The search for poison images: finds exactly them, accuses nobody else."""

from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.executors.base import Job
from svp.pipeline.executors.poison_search import CONFIRM, MAX_POISON, Hunt


def search(rows: int, poison: set[int], strays: set[int]) -> tuple[Hunt, list[Job]]:
    """Answer every probe: it fails if it holds a poison row; probe number n in `strays` fails too,
    as when somebody kills its worker.
    """
    hunt = Hunt(0, rows)
    queue, asked = hunt.start(), list[Job]()
    while queue and not hunt.over:
        job = queue.pop(0)
        assert job.rows is not None
        bad = poison & set(range(*job.rows)) or len(asked) in strays
        queue = (hunt.failed(job, "worker_died") if bad else hunt.passed()) + queue
        asked.append(job)
    return hunt, asked


@given(st.integers(1, 64), st.sets(st.integers(0, 63), max_size=MAX_POISON))
def test_finds_exactly_the_poison(rows: int, wanted: set[int]) -> None:
    poison = set(sorted(row for row in wanted if row < rows)[: max(1, rows // 2)])
    hunt, asked = search(rows, poison, set())
    assert set(hunt.found) == poison
    assert hunt.over
    assert not hunt.hopeless
    assert len(asked) <= 2 + len(poison) * (2 * 6 + CONFIRM)


@given(st.integers(1, 64), st.integers(0, 63), st.integers(0, 20))
def test_a_stray_kill_accuses_nobody(rows: int, poison: int, stray: int) -> None:
    hunt, _ = search(rows, {poison % rows}, {stray})
    assert set(hunt.found) == {poison % rows}


def test_gives_up_when_everything_fails() -> None:
    hunt, asked = search(64, set(range(64)), set())
    assert hunt.hopeless
    assert len(asked) < 64
