"""What a cache says about the data it was made from, and how that is read back."""

import json
from pathlib import Path

import pytest

from svp.pipeline.cache.places import DataPlaces, image_root_of, read_places, write_places
from svp.pipeline.cache.plan import Plan
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute.launch import Request, launch, notices, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions

INLINE = RunOptions(workers=0, limit=1)


def test_a_cache_records_its_request_with_absolute_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), images=20, seed=3)
    flags = Flags(points_per_side=4)
    ids = set()
    for dataset, root in (("scenes", None), ("refcoco", Path("scenes"))):
        out = Path("caches") / dataset
        request = Request(dataset=dataset, root=root, split="train", out=out, flags=flags,
                          run=INLINE, split_by="unc", exclude_eval_images=True,
                          quiet=True)  # fmt: skip
        launch(request, open_request(request))
        assert read_places(out) == DataPlaces(
            dataset=str(tmp_path / "scenes") if root is None else "refcoco",
            images=tmp_path / "scenes/images",
            split="train",
            root=None if root is None else tmp_path / "scenes",
            split_by="unc",
            exclude_eval_images=True,
            generated=True,
            limit=1,
        )
        assert image_root_of(out) == tmp_path / "scenes/images"
        ids.add(Plan.load(out).id)
    assert len(ids) == 1, "where the data lies is no part of a digest"


def test_idle_workers_are_told_of(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", images=100, seed=3, splits={"train": 70, "val": 30})

    def told(workers: int, split: str, **more: object) -> list[str]:
        options = RunOptions(workers=workers, **more)  # type: ignore[arg-type]
        request = Request(dataset=str(scenes), split=split, out=None, run=options)
        lines = notices(request, open_request(request))
        return [line for line in lines if "will have work" in line]

    assert told(2, "train") == told(1, "val") == told(0, "val") == []
    assert told(2, "val") == [
        "30 images are 1 shard of 64, and a shard is one worker's: 1 of 2 workers will have work"
    ]
    assert len(told(2, "train", limit=64)) == 1


def test_workers_on_one_gpu_are_told_of(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", images=10, seed=3, splits={"train": 10})

    def told(workers: int | None, device: str) -> list[str]:
        options = RunOptions(workers=workers, device=device)
        request = Request(dataset=str(scenes), split="train", out=None, run=options)
        lines = notices(request, open_request(request))
        return [line for line in lines if "share one GPU" in line]

    assert told(4, "cuda") == told(None, "cuda:1") == told(1, "cuda:1") == told(4, "cpu") == []
    (line,) = told(4, "cuda:1")
    assert line.startswith("4 workers share one GPU, cuda:1: each loads all models")


def test_a_record_that_is_not_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    file = tmp_path / "logs/places.json"
    assert read_places(tmp_path) is None
    for text in ("", "[]", "{", '{"images": "/p"}', '{"dataset": 3, "images": "/p"}', "[" * 9999):
        file.write_text(text)
        assert read_places(tmp_path) is None, text
    file.write_text(json.dumps({"images": str(tmp_path)}))  # as older versions wrote it
    assert image_root_of(tmp_path) == tmp_path
    places = DataPlaces(dataset="refcoco", images=Path("/p"), root=Path("/r"))
    write_places(tmp_path, places)
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"new": 1}))
    assert read_places(tmp_path) == places
