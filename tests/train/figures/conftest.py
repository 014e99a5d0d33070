"""One small cache of scenes, read by every test of the figures."""

from pathlib import Path

import pytest

from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.executors import ExecutorOptions
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `scenes` and `caches/val` of five of them."""
    root = tmp_path_factory.mktemp("figures")
    scenes = write_scenes(root / "scenes", images=6, seed=9, splits={"train": 1, "val": 5})
    request = Request(
        dataset=str(scenes), split="val", out=root / "caches" / "val",
        flags=Flags(points_per_side=5, store_sam_embeddings=True),
        run=RunOptions(executor_options=ExecutorOptions(workers=0)), quiet=True,
    )  # fmt: skip
    launch(request, open_request(request))
    return root
