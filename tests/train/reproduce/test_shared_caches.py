"""All caches of a table cut each photograph once, whatever rows and encoders ask of them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.cache.plan import Plan
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.superpixels import generator
from svp.train import cli_defaults
from svp.train.reproduce.caches import Caches, splits_of
from svp.train.reproduce.estimate import price_plan
from svp.train.reproduce.paper_tables import experiment
from svp.train.reproduce.request import ReproduceRequest, data_of


def test_tiny_caches_of_tables_3_and_7_are_cut_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_defaults, "DATA", tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    splits = {"train": 2, "val": 1, "testA": 1}
    write_scenes(tmp_path / "scenes", images=4, splits=splits, seed=0)
    request = ReproduceRequest(table="table3", caches=tmp_path / "caches", device="cpu", workers=0)
    data = data_of(request)
    rows = [row for table in ("table3", "table7") for row in experiment(table, "tiny").rows]
    seen: Counter[bytes] = Counter()
    batch = generator.SamSource.generate_batch

    def counted(self: Any, images: Sequence[Any], **options: bool) -> Any:
        seen.update(image.tobytes() for image in images)
        return batch(self, images, **options)

    monkeypatch.setattr(generator.SamSource, "generate_batch", counted)
    caches, made = Caches(request, data), set()
    for row in rows:
        for dataset, split in [] if row.not_run else splits_of(row, data):
            made.add(caches.get(row, dataset, split))
    recipes = {Plan.load(cache).layer("superpixels").recipe_id for cache in made}
    assert len(made) > len(data.columns) + 1, "rows read other encoder blocks, so other caches"
    assert len(recipes) == 1 and len(seen) == 3
    assert set(seen.values()) == {1}, "every photograph went through SAM once"


def test_plans_of_all_tables_cut_every_photograph_once_per_recipe() -> None:
    """SAM's part of the price is one pass over the distinct photographs for each of its recipes."""
    request = ReproduceRequest(table="all", size="paper", gpu="h100", device="cpu")
    data, table = data_of(request), experiment("all", "paper")
    plan = price_plan(request, data, table, [], asked=True)
    cut: dict[str, list[str]] = {}
    for made in plan.caches:
        cut.setdefault(made.sam, []).extend(made.cut)
    distinct = set().union(*(made.cut for made in plan.caches))
    assert len(cut) > 1 and distinct
    for recipe, names in cut.items():
        assert len(names) == len(set(names)), recipe
    alone = sum(made.alone.worker_hours for made in plan.caches)
    assert plan.hours["precompute"] < 0.6 * alone
