"""What an evaluation has computed stays: after a stop, a crash, a full disk at its end."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from support import eval_world
from svp.pipeline.errors import CacheError
from svp.train.evaluation import evaluate as module
from svp.train.evaluation.evaluate import Settings, evaluate
from svp.train.evaluation.parts import Parts
from svp.train.evaluation.protocols import plan
from svp.train.evaluation.results import Header, Results, Row, collect, read_results
from svp.train.runs import evaluate as eval_run

IDS = range(3, 9)
HEADER = Header(
    svp="0", commit="", protocol="full", generate=False, seed=0, repeats=1, order="area",
    splits=[], digests={"checkpoint": "c"}, libraries={},
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    items, visuals = eval_world.world(tmp_path_factory.mktemp("world"), IDS)
    return plan(items, "full"), visuals, eval_world.model()


def run(world, parts: Parts | None) -> list[Row]:  # type: ignore[no-untyped-def]
    units, visuals, model = world
    settings = Settings(batch=2, parts=parts)
    return evaluate(model, units, eval_world.vocabulary(), visuals, settings)


def parts_of(world, home: Path, header: Header = HEADER, batch: int = 2) -> Parts:  # type: ignore[no-untyped-def]
    return Parts(home, header, world[0], batch)


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_an_evaluation_goes_on_where_it_stopped(  # type: ignore[no-untyped-def]
    world, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(world, None)
    asked: list[int] = []
    real = module._forced

    def forced(model, batch, *others):  # type: ignore[no-untyped-def]
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(len(batch.ids))
        return real(model, batch, *others)

    monkeypatch.setattr(module, "_forced", forced)
    with pytest.raises(KeyboardInterrupt):
        run(world, parts_of(world, tmp_path))
    count = lambda m, b, *others: asked.append(len(b.ids)) or real(m, b, *others)
    monkeypatch.setattr(module, "_forced", count)
    first = sum(asked)
    kept = parts_of(world, tmp_path)
    assert sum(len(rows) for rows in kept.done.values()) == first
    assert run(world, kept) == whole
    assert sum(asked) == len(whole)  # every sentence once, over both runs
    again = parts_of(world, tmp_path)
    assert run(world, again) == whole and sum(asked) == len(whole)
    again.remove()
    assert not list(tmp_path.iterdir())


def test_a_cut_or_foreign_part_is_computed_again(world, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = run(world, parts_of(world, tmp_path))
    (path,) = tmp_path.glob(".parts-*/0-of-1.jsonl")
    good = path.read_bytes()
    lines = good.splitlines(keepends=True)
    for damaged, kept in (
        (good[:-5], len(lines) - 1),
        (lines[0] + b"[1, [{}]]\n" + lines[1], 1),
        (b"not ours\n" + good, 0),
    ):
        path.write_bytes(damaged)
        parts = parts_of(world, tmp_path)
        assert len(parts.done) == kept
        assert run(world, parts) == whole
        assert len(parts_of(world, tmp_path).done) == len(lines)
    other = HEADER.model_copy(update={"digests": {"checkpoint": "d"}})
    assert not parts_of(world, tmp_path, header=other).done
    assert not parts_of(world, tmp_path, batch=3).done


def test_a_full_disk_at_the_end_keeps_every_row(  # type: ignore[no-untyped-def]
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(world, tmp_path)
    results = collect(HEADER, run(world, parts))
    out = tmp_path / "val.jsonl"

    def full(path: Path, results: Results) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(eval_run, "write_results", full)
        with pytest.raises(
            CacheError, match=rf"No space left.*all {len(results.rows)} rows are kept"
        ):
            eval_run._save(out, results, parts)
    assert not out.exists()
    assert collect(HEADER, run(world, parts_of(world, tmp_path))).rows == results.rows
    eval_run._save(out, results, parts)
    assert read_results(out) == results and not list(tmp_path.glob(".parts-*"))


def test_a_full_disk_on_the_way_keeps_what_was_before(  # type: ignore[no-untyped-def]
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(world, tmp_path)
    real = Parts.add

    def add(self: Parts, number: int, rows: Sequence[Row]) -> None:
        if number == 2:
            raise CacheError("No space left on device")
        real(self, number, rows)

    with monkeypatch.context() as broken:
        broken.setattr(Parts, "add", add)
        with pytest.raises(CacheError, match="No space left"):
            run(world, parts)
    again = parts_of(world, tmp_path)
    assert sorted(again.done) == [0, 1] and run(world, again) == run(world, None)
