"""Manifests and the index: any damage is refused by name, a resume trusts only sound shards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.cache import CacheReader, committed_shards
from svp.pipeline.cache.index import load_rows
from svp.pipeline.cache.manifest import Manifest, read_manifest
from svp.pipeline.errors import CacheError
from svp.pipeline.io.json_files import canonical


def test_it_records_what_became_of_each_image(made: Any) -> None:
    made.write()
    found = read_manifest(made.path, made.plan, 0)
    assert [entry.status for entry in found.images] == ["ok", "ok", "quarantined", "ok"]
    assert found.images[2].reason == "truncated"
    assert found.images[0].survivors == dict(made.rows[0].superpixels.survivors)
    for name, file in found.files.items():
        [path] = [p for p in (made.path / name / "c" / "0").rglob("*") if p.is_file()] or [
            made.path / name / "c" / "0"
        ]
        assert path.stat().st_size == file.bytes


@pytest.mark.parametrize("name", ["manifest/1.json", "index.json", "COMPLETE", "plan.json"])
def test_no_flipped_byte_is_overlooked(cache: Any, name: str) -> None:
    path = cache.path / name
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 25)):
        for mask in (0xFF, 0x01):
            path.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
            with pytest.raises(CacheError, match=r"\.json|COMPLETE"):
                CacheReader(cache.path).superpixels(4)
    for size in range(0, len(data), max(1, len(data) // 8)):
        path.write_bytes(data[:size])
        with pytest.raises(CacheError, match=r"\.json|COMPLETE"):
            CacheReader(cache.path).superpixels(4)


def hostile() -> dict[str, Callable[[dict[str, Any]], Any]]:
    def file(**more: object) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, "files": {**raw["files"], "dino": more}}

    def image(**more: object) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, "images": [{**raw["images"][0], **more}, *raw["images"][1:]]}

    return {
        "file outside": lambda raw: {
            **raw,
            "files": {**raw["files"], "../x": raw["files"]["dino"]},
        },
        "file missing": lambda raw: {**raw, "files": {}},
        "negative size": file(bytes=-1, xxh3="0" * 16),
        "text size": file(bytes="1", xxh3="0" * 16),
        "another shard": lambda raw: {**raw, "shard": 2},
        "another image": image(id=5),
        "another size": image(h=11),
        "too many superpixels": image(k=7),
        "none": image(k=0),
        "reason though ok": image(reason="x"),
        "unknown status": image(status="fine"),
        "unknown key": lambda raw: {**raw, "run": "x"},
        "image list short": lambda raw: {**raw, "images": raw["images"][:3]},
        "survivor flood": image(survivors={f"s{i}": 1 for i in range(65)}),
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_manifests_are_refused_even_with_a_right_checksum(made: Any, name: str) -> None:
    made.write()
    path = made.path / "manifest/0.json"
    raw = hostile()[name](json.loads(path.read_bytes()))
    try:
        data = Manifest.model_validate(raw).sealed().data()
    except ValueError:
        data = canonical(raw)
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"manifest/0\.json"):
        CacheReader(made.path)
    assert made.missing() == [0]


def test_a_resume_redoes_shards_with_lost_or_short_files(made: Any) -> None:
    made.write()
    assert made.missing() == []
    (made.path / "cover/c/0/0/0").unlink()
    path = made.path / "rle/c/2/0"
    path.write_bytes(path.read_bytes()[:-1])
    assert made.missing() == [0, 2]
    assert committed_shards(made.path, made.plan) == [0, 1, 2]


def test_a_partial_manifest_does_not_count(made: Any) -> None:
    made.write([0])
    path = made.path / "manifest/0.json"
    path.rename(path.with_name("0.json.aaaaaaaa-1-1.partial"))
    assert committed_shards(made.path, made.plan) == []


def test_finalize_refuses_an_unfinished_cache(made: Any) -> None:
    made.write([1])
    with pytest.raises(CacheError, match=r"2 of 3 shards are missing \(first \[0, 2\]\)"):
        made.finish()
    assert not (made.path / "COMPLETE").exists()


def test_index_and_manifests_tell_the_same(cache: Any) -> None:
    from_index = load_rows(cache.path, cache.plan)
    (cache.path / "COMPLETE").unlink()
    from_manifests = load_rows(cache.path, cache.plan)
    assert from_index.complete and not from_manifests.complete
    assert from_index.status.tolist() == from_manifests.status.tolist()
    assert from_index.k.tolist() == from_manifests.k.tolist()
    assert from_index.bad == from_manifests.bad == {2: ("truncated", "file 2 ends early")}
    assert from_index.fallback == from_manifests.fallback


def test_an_empty_plan_is_complete_at_once(maker: Callable[..., Any]) -> None:
    made = maker(0)
    made.write()
    made.finish()
    reader = CacheReader(made.path)
    assert reader.complete and len(reader) == 0 and reader.quarantined == ()


def test_one_image_and_all_quarantined(maker: Callable[..., Any]) -> None:
    one, none = maker(1), maker(5, bad=range(5))
    for made in (one, none):
        made.write()
        made.finish()
    assert CacheReader(one.path).features(0).shape == (4, 8)
    reader = CacheReader(none.path)
    assert [reader.status(i) for i in range(5)] == ["quarantined"] * 5
    assert none.missing() == []


def test_control_characters_in_a_reason_never_reach_the_file(made: Any, tmp_path: Path) -> None:
    from svp.pipeline.records import Quarantined

    made.rows[1] = Quarantined(8, "bad\x1b[31m", "x\n" * 2000)
    made.write()
    [_, found] = sorted(CacheReader(made.path).quarantined, key=lambda q: -q.image_id)
    assert found.reason == "bad\\x1b[31m"
    assert len(found.detail) <= 500 and "\n" not in found.detail
