"""`svp bench checkpoint` at a small size: what it measures is there and consistent."""

from pathlib import Path

from svp.train.bench.checkpoint import run


def test_both_ways_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    found = run(parameters=240_000, reps=2, folder=tmp_path / "work")
    assert found.bytes == 12 * 240_000
    assert 0 < found.copied < found.written and found.waited > 0
    (target,) = found.targets
    assert target.value == found.waited / found.copied and target.target == 2
    assert "2.9 MB" in found.lines()[0]
    assert not list((tmp_path / "work").iterdir())
