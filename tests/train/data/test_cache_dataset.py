"""`svp.CacheDataset`: equal to the reader, row by row, in this process and in workers."""

import logging
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import svp
from support import ROOT
from support.object_server import ObjectServer
from support.small_cache import Made, make_plan, make_rows
from svp.pipeline.cache import create_cache, write_shard
from svp.pipeline.cache.exchange import copy_cache
from svp.pipeline.errors import CacheError, ConfigError, MissingError
from svp.pipeline.masks.rle import decode
from svp.pipeline.records import ImageRow
from svp.pipeline.store import ObjectStore, Read, open_store
from svp.train.data.cache_dataset import FIELDS, CacheDataset

EVERY = list(FIELDS)


@pytest.fixture
def maker(tmp_path: Path) -> Callable[..., Made]:
    """`maker(images=..., bad=..., **features)`: a cache, not yet written."""

    def make(images: int = 10, bad: Sequence[int] = (), **features: object) -> Made:
        plan = make_plan(images, **features)
        return Made(tmp_path / "cache", plan, make_rows(plan, bad))

    return make


@pytest.fixture
def full(maker: Callable[..., Made]) -> Made:
    """Ten images with every array, row 2 quarantined."""
    made = maker(bad=[2], layers=(1, 2), cls=True, pooled=True)
    made.write()
    made.finish()
    return made


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return bool(a.dtype == b.dtype and torch.equal(a, b))
    return bool(a == b)


def test_samples_are_what_the_reader_reads(full: Made) -> None:
    data, reader = CacheDataset(full.path, EVERY), svp.CacheReader(full.path)
    assert data.ids.tolist() == [
        image.image_id for i, image in enumerate(full.plan.images) if i != 2
    ]
    assert len(data) == 9 and data.left_out == {"truncated": 1}
    for index, row in enumerate(i for i in range(10) if i != 2):
        sample, wanted = data[index], full.rows[row]
        found = wanted.superpixels
        assert list(sample) == ["image_id", "path", "size", *EVERY]
        assert sample["image_id"] == wanted.image_id and sample["path"] == f"d/{row}.jpg"
        assert sample["size"].tolist() == [12, 10]
        for name, value in {
            "features": wanted.patches, "layers": wanted.layers, "cls": wanted.cls,
            "sam": wanted.sam, "cover": wanted.cover, "pooled": reader.pooled(row), "level": found.level, "area": found.area,
            "iou": found.predicted_iou, "stability": found.stability, "box": found.box,
            "point": found.point,
        }.items():  # fmt: skip
            np.testing.assert_array_equal(sample[name].numpy(), value, strict=True)
        bits = np.packbits(sample["sspe_masks"].numpy().reshape(len(found), -1), axis=1)
        np.testing.assert_array_equal(bits, reader.sspe_masks(row))
        assert sample["sspe_masks"].shape == (len(found), 4, 4)
        masks = np.stack([decode(one) for one in found.masks()])
        np.testing.assert_array_equal(sample["masks"].numpy(), masks, strict=True)
        assert sample["rles"] == [{"size": [12, 10], "counts": one} for one in found.rles]


def test_a_batch_is_read_in_file_order_and_answered_in_the_order_asked(
    full: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CacheDataset(full.path, ["features", "cls"])
    read: list[int] = []
    plain = data.reader.features
    monkeypatch.setattr(
        data.reader, "features", lambda row, out: read.append(row) or plain(row, out)
    )
    asked = [8, 0, 5, 0, -1, 3]
    samples = data.__getitems__(asked)
    assert read == sorted(read) == [0, 0, 4, 6, 9, 9]
    assert [sample["image_id"] for sample in samples] == data.ids[asked].tolist()


@pytest.mark.parametrize(
    "fields", [["features"], ["cls", "features", "cover", "sspe_masks"], EVERY]
)
def test_a_batch_of_a_bucket_is_a_request_for_each_row_and_those_of_shards(
    full: Made, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch, fields: list[str]
) -> None:
    monkeypatch.setattr("svp.pipeline.store.in_flight.Hedging.take", lambda self: False)
    copy_cache(full.path, open_store("s3://tests/c"))
    data, plain = CacheDataset("s3://tests/c", fields), CacheDataset(full.path, fields)
    asked = [8, 0, 5, 3]
    data.__getitems__(asked)  # opens the shard files
    s3.set()
    samples = data.__getitems__(asked)
    alone = {"features", "pooled", "cls", "sam", "layers"} & set(fields)
    shards = 3 if fields == EVERY else 0  # their manifests
    assert s3.counts() == {"GET": len(alone) * len(asked) + shards}
    for sample, index in zip(samples, asked, strict=True):
        wanted = plain[index]
        assert list(sample) == list(wanted)
        assert all(same(sample[name], wanted[name]) for name in sample)


def test_the_rows_of_a_batch_in_a_bucket_are_asked_for_together(
    full: Made, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_cache(full.path, open_store("s3://tests/c"))
    data = CacheDataset("s3://tests/c", ["features", "cls", "sam"])
    batches: list[int] = []
    read_many = ObjectStore.read_many

    def counted(store: ObjectStore, reads: Sequence[Read]) -> None:
        batches.append(len(reads))
        read_many(store, reads)

    monkeypatch.setattr(ObjectStore, "read_many", counted)
    data.__getitems__([8, 0, 5, 3])
    assert max(batches) == 12 and batches.count(12) == 1


def test_a_sample_does_not_hold_its_batch(full: Made) -> None:
    """Worker processes send the whole memory behind a tensor."""
    for sample in CacheDataset(full.path, EVERY).__getitems__([0, 1, 2]):
        for name in ("features", "cls", "sam"):
            assert sample[name].untyped_storage().nbytes() == sample[name].nbytes


def test_collate_pads_superpixels_and_says_which_are_real(full: Made) -> None:
    data = CacheDataset(full.path, EVERY)
    samples = [data[i] for i in range(5)]
    counts = [len(sample["area"]) for sample in samples]
    assert len(set(counts)) > 1
    batch = CacheDataset.collate(samples)
    assert batch["valid"].tolist() == [[k < n for k in range(max(counts))] for n in counts]
    assert batch["image_id"].tolist() == [sample["image_id"] for sample in samples]
    assert batch["size"].tolist() == [[12, 10]] * 5 and batch["path"][4] == samples[4]["path"]
    assert batch["rles"] == [sample["rles"] for sample in samples]
    for name in ("features", "layers", "cls", "sam"):
        assert same(batch[name], torch.stack([sample[name] for sample in samples]))
    for name in ("cover", "pooled", "sspe_masks", "masks", "level", "area", "iou", "box", "point"):
        assert batch[name].dtype == samples[0][name].dtype
        assert not batch[name][~batch["valid"]].any()
        for row, sample in zip(batch[name], samples, strict=True):
            assert torch.equal(row[: len(sample[name])], sample[name])
    projector_input = svp.MaskInput(batch["cover"], batch["sspe_masks"])
    assert projector_input.cover.shape == (5, max(counts), 4)


def test_masks_of_images_of_other_sizes_are_padded() -> None:
    samples = [
        {"image_id": 1, "masks": torch.ones(2, 3, 5, dtype=torch.uint8)},
        {"image_id": 2, "masks": torch.ones(1, 4, 2, dtype=torch.uint8)},
    ]
    batch = CacheDataset.collate(samples)
    assert batch["masks"].shape == (2, 2, 4, 5) and batch["masks"].sum() == 30 + 8
    assert batch["masks"][1, 0, :4, :2].all() and batch["valid"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same(full: Made, context: str) -> None:
    data = CacheDataset(full.path, EVERY)
    data[0]  # files are open, and checksums noted, in this process
    loader = DataLoader(
        data, batch_size=4, num_workers=2, collate_fn=CacheDataset.collate,
        multiprocessing_context=context,
    )  # fmt: skip
    batches = list(loader)
    assert [len(batch["image_id"]) for batch in batches] == [4, 4, 1]
    for first, batch in zip((0, 4, 8), batches, strict=True):
        wanted = CacheDataset.collate([data[i] for i in range(first, min(first + 4, 9))])
        assert list(batch) == list(wanted) and all(same(batch[n], wanted[n]) for n in wanted)


def test_a_copy_keeps_its_images(full: Made) -> None:
    data = CacheDataset(full.path, ["cls"], images=[64, 1], verify="always")
    again = pickle.loads(pickle.dumps(data))
    assert again.ids.tolist() == [64, 1] and again.reader.verify == "always"
    assert same(again[0]["cls"], data[0]["cls"]) and again.left_out == {}


def test_what_is_left_out_is_said_or_refused(
    maker: Callable[..., Made], logged: pytest.LogCaptureFixture
) -> None:
    made = maker(bad=[2, 3])
    made.write([0, 2])
    data = CacheDataset(made.path)
    assert data.ids.tolist() == [1, 8, 57, 64]
    assert data.left_out == {"truncated": 2, "not computed yet": 4}
    (line,) = [r for r in logged.records if r.levelno == logging.WARNING]
    assert "6 of 10 images left out (truncated 2, not computed yet 4)" in line.getMessage()
    with pytest.raises(CacheError, match="6 of 10 images left out.*retry-quarantined"):
        CacheDataset(made.path, partial=False)
    with pytest.raises(CacheError, match="image 15: truncated: file 2 ends early"):
        CacheDataset(made.path, images=[1, 15])
    with pytest.raises(CacheError, match="image 29: not computed yet: run the same"):
        CacheDataset(made.path, images=[29])
    with pytest.raises(CacheError, match="no image 2"):
        CacheDataset(made.path, images=[2])


def test_a_complete_cache_says_nothing(
    maker: Callable[..., Made], logged: pytest.LogCaptureFixture
) -> None:
    made = maker()
    made.write()
    made.finish()
    data = CacheDataset(made.path, partial=False)
    assert len([*data]) == 10 and not logged.records  # iteration ends with an IndexError


def test_a_field_that_is_not_stored_names_the_remedy(maker: Callable[..., Made]) -> None:
    made = maker()
    made.write()
    with pytest.raises(CacheError, match="no array .*sam.*svp cache add"):
        CacheDataset(made.path, ["features", "sam"])


def test_the_plan_that_stores_the_fields_is_read(maker: Callable[..., Made]) -> None:
    """As after `svp cache add CACHE cls`: a later plan of the same images has the layer."""
    made = maker()
    made.write()
    made.finish()
    later = Made(made.path, make_plan(cls=True), make_rows(make_plan(cls=True)))
    create_cache(made.path, later.plan, view=True)
    for shard in range(3):
        write_shard(made.path, later.plan, shard, later.shard_rows(shard), {})
    later.finish()
    assert CacheDataset(made.path).reader.plan.id == made.plan.id
    data = CacheDataset(made.path, ["cls"])
    assert data.reader.plan.id == later.plan.id != made.plan.id
    row = later.rows[3]
    assert isinstance(row, ImageRow) and row.cls is not None
    np.testing.assert_array_equal(data[3]["cls"].numpy(), row.cls)


@pytest.mark.parametrize("stored", ["int8", "mean+int4"])
def test_features_in_fewer_bits_are_decoded(maker: Callable[..., Made], stored: str) -> None:
    made = maker(stored=stored)
    made.write()
    made.finish()
    features = CacheDataset(made.path, ["features"])[3]["features"]
    assert features.dtype == torch.float16
    assert same(features, torch.from_numpy(svp.CacheReader(made.path).features(3)))


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_sam_embeddings_in_fewer_bits_are_decoded(maker: Callable[..., Made], stored: str) -> None:
    made = maker(sam_stored=stored)
    made.write()
    sam = CacheDataset(made.path, ["sam"])[3]["sam"]
    assert same(sam, torch.from_numpy(svp.CacheReader(made.path).sam(3)))


def test_bad_requests_are_refused(full: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fields=.*dino.*: use any of features, layers"):
        CacheDataset(full.path, ["dino"])
    with pytest.raises(ConfigError, match="give a list of names"):
        CacheDataset(full.path, "features")
    with pytest.raises(MissingError, match="not a cache of svp"):
        CacheDataset(tmp_path)
    data = CacheDataset(full.path)
    for index in (9, -10):
        with pytest.raises(IndexError, match=f"sample {index}: the data set has 9 samples"):
            data[index]


def test_damage_in_a_worker_names_image_and_file(full: Made) -> None:
    (file,) = full.path.glob("features/*/dino/c/1/0/0")
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    loader = DataLoader(
        CacheDataset(full.path), batch_size=9, num_workers=1, collate_fn=CacheDataset.collate
    )
    with pytest.raises(CacheError, match=r"image 29 \(row 4\): .*/dino/c/1/0/0.*checksum"):
        next(iter(loader))


def test_the_printed_example_runs(full: Made, capsys: pytest.CaptureFixture[str]) -> None:
    code = (ROOT / "docs/integration.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "read_cache.py", "exec"), space)  # noqa: S102 - it is what a user pastes
    space["main"](str(full.path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "9 images; left out: {'truncated': 1}"
    assert len(lines) == 4 and "torch.Size([4, 4, 8]) torch.float16" in lines[1]
