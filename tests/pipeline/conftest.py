"""A world of small images, and the cache that nothing disturbed."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 40 small PNGs in `images` and, in `clean`, their cache made undisturbed."""
    from support import fake_run

    root = tmp_path_factory.mktemp("world")
    fake_run.write_images(root / "images", 40)
    with pytest.MonkeyPatch.context() as patch:
        fake_run.install(patch)
        fake_run.run(root / "clean", root / "images")
    return root
