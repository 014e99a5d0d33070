"""A cache lives on a file system: an address of object storage is refused, not made a folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from svp.pipeline.cache import CacheReader, Plan, create_cache, verify
from svp.pipeline.errors import ConfigError
from svp.pipeline.io.paths import refuse_url

URLS = ["s3://bucket/cache", "gs://b/c", "memory://cache", "https://host/c", "file:///tmp/c"]


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_refused_with_the_remedy(
    url: str, planner: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (lambda path: create_cache(path, planner()), CacheReader, verify):
        with pytest.raises(ConfigError, match="mount it, or copy the cache"):
            call(Path(url))  # as the command line hands it over: one slash is gone
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["cache", "/data/c", "a:b/c", "C", "x:y"])
def test_folders_are_no_urls(name: str) -> None:
    refuse_url(Path("/base") / name)
    refuse_url(Path(name))
