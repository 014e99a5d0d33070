"""The search for poison images: finds exactly them, quarantines no other."""

from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.executors.base import Job
from svp.pipeline.executors.poison_search import FAILURES_TO_QUARANTINE, MAX_POISON, PoisonSearch


def search(rows: int, poison: set[int], strays: set[int]) -> tuple[PoisonSearch, list[Job]]:
    """Run every probe: it fails if it holds a poison row; probe number n in `strays` fails too,
    as when somebody kills its worker.
    """
    found = PoisonSearch(0, rows)
    queue, asked = found.start(), list[Job]()
    while queue and not found.over:
        job = queue.pop(0)
        assert job.rows is not None
        bad = poison & set(range(*job.rows)) or len(asked) in strays
        queue = (found.failed(job, "worker_died") if bad else found.passed()) + queue
        asked.append(job)
    return found, asked


@given(st.integers(1, 64), st.sets(st.integers(0, 63), max_size=MAX_POISON))
def test_finds_exactly_the_poison(rows: int, wanted: set[int]) -> None:
    poison = set(sorted(row for row in wanted if row < rows)[: max(1, rows // 2)])
    found, asked = search(rows, poison, set())
    assert set(found.found) == poison
    assert found.over
    assert not found.too_many_failures
    assert len(asked) <= 2 + len(poison) * (2 * 6 + FAILURES_TO_QUARANTINE)


@given(st.integers(1, 64), st.integers(0, 63), st.integers(0, 20))
def test_a_stray_kill_quarantines_no_image(rows: int, poison: int, stray: int) -> None:
    found, _ = search(rows, {poison % rows}, {stray})
    assert set(found.found) == {poison % rows}


def test_gives_up_when_everything_fails() -> None:
    found, asked = search(64, set(range(64)), set())
    assert found.too_many_failures
    assert len(asked) < 64
