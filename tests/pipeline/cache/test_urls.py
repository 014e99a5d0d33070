"""A cache may lie at an address; one that no store serves is refused, and nothing is made of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.cache import CacheReader, Plan, create_cache, verify
from svp.pipeline.errors import ConfigError
from svp.pipeline.store import as_place, is_url


@pytest.mark.parametrize(
    ("url", "kind", "match"),
    [
        ("https://host/c", ConfigError, "https:// is no store: give a folder, s3://bucket/prefix"),
        ("s3://key:secret@bucket/c", ConfigError, "credentials, endpoint and region are read from"),
        ("s3://b?region=x", ConfigError, "holds more than a bucket and a prefix"),
    ],
)
def test_what_cannot_be_served_is_told(
    url: str, kind: type[Exception], match: str, planner: Callable[..., Plan], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for call in (lambda path: create_cache(path, planner()), CacheReader, verify):
        with pytest.raises(kind, match=match):
            call(Path(url))  # a path has lost one slash
    assert os.listdir(tmp_path) == []


def test_a_file_address_is_a_folder(cache: Any) -> None:
    place = as_place(f"file://{cache.path}")
    assert place == cache.path and CacheReader(place).plan == cache.plan


@pytest.mark.parametrize("name", ["cache", "/data/c", "a:b/c", "C", "x:y"])
def test_folders_are_no_urls(name: str) -> None:
    assert not is_url(name) and as_place(name) == Path(name)
