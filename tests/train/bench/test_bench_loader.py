"""`svp bench loader`: what is compared is the same, and the report says what was measured."""

from pathlib import Path

import pytest
import torch

import svp
from svp.model.batch import Batch
from svp.train.bench.loader import DENSE, FEATURES, OURS, RUNS, LoaderBench, run
from svp.train.bench.loader_data import SENTENCES, SUPERPIXELS, paper_source, write_paper_cache
from svp.train.bench.rle_baseline import RleTable, RleVisuals
from svp.train.data.build_table import open_table
from svp.train.data.collate import CachedVisuals
from svp.train.data.expression_table import ExpressionTable
from svp.train.data.loader import Draws, Loader, RankSlice
from svp.train.data.tokenizer import load_vocabulary


@pytest.mark.slow
def test_baselines_make_the_same_batches(tmp_path: Path) -> None:
    cache = write_paper_cache(tmp_path / "cache", 16)
    source = paper_source(cache)
    table = open_table(tmp_path / "t", [source], [cache], training=True)
    slow = RleTable(table.path, {ann: mask for (_, ann), mask in source.masks.items()})
    vocab = load_vocabulary(Path(svp.__file__).parent / "workflows/tiny/lm")

    def first(table: ExpressionTable, visuals: CachedVisuals) -> Batch:
        loader = Loader(
            table, visuals, vocab, Draws(seed=0, global_batch=4), RankSlice(micro_batch=4)
        )
        stream = loader.steps(loader.start())
        batch = next(stream).batches[0]
        stream.close()
        return batch

    ours = first(table, CachedVisuals([cache], {"masks"}))
    runs = first(slow, RleVisuals([cache], "runs"))
    dense = first(slow, RleVisuals([cache], "dense"))
    assert torch.equal(ours.ids, runs.ids) and torch.equal(ours.ids, dense.ids)
    assert ours.packed and runs.packed and dense.packed and ours.visual.valid is not None
    for baseline, exact in ((runs, True), (dense, False)):
        for a, b in zip(ours.packed, baseline.packed or (), strict=True):
            assert torch.equal(a, b)
        mine, other = ours.visual, baseline.visual
        assert mine.cover is not None and other.cover is not None
        assert mine.masks is not None and other.masks is not None
        assert torch.equal(mine.patches, other.patches)
        if exact:
            assert torch.equal(mine.cover, other.cover) and torch.equal(mine.masks, other.masks)
        else:  # torch's area bins overlap where 640 / 24 is not whole
            assert (mine.cover - other.cover).abs().mean() < 1e-3
            assert (mine.masks != other.masks).float().mean() < 1e-3
    assert ours.visual.valid.sum() == 4 * SUPERPIXELS
    assert len(table.sentences(0)) == SENTENCES


@pytest.mark.slow
def test_a_small_run_measures_everything() -> None:
    made = run(images=32, reps=1)
    assert set(made.rates) == {OURS, FEATURES, DENSE, RUNS} and all(made.rates.values())
    assert [g.target for g in made.targets] == [500, 10, 50, 100]
    assert any("other loaders not measured" in line for line in made.lines())
    assert made.to_json()["passed"] == made.passed == (made.exit_code == 0)


def test_a_missed_goal_is_said() -> None:
    from svp.pipeline.bench.targets import Target

    targets = [Target("speed", 100.0, ">=", 500)]
    made = LoaderBench(8, 2, {OURS: 100.0}, {OURS: 3.0}, targets=targets)
    assert made.exit_code == 1 and any(line.startswith("FAIL") for line in made.lines())
