"""One small cache of scenes, read by every test of the figures."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.weights.rehearsal import VARIABLE
from svp.train.figures import canvas


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `scenes` and `caches/val` of five of them."""
    root = tmp_path_factory.mktemp("figures")
    scenes = write_scenes(root / "scenes", images=6, seed=9, splits={"train": 1, "val": 5})
    request = Request(
        dataset=str(scenes), split="val", out=root / "caches" / "val",
        flags=Flags(points_per_side=5, store_sam_embeddings=True),
        run=RunOptions(workers=0), quiet=True,
    )  # fmt: skip
    launch(request, open_request(request))
    return root


@pytest.fixture
def clip_dial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP and DINOv2 with the published layers, 64 wide: their weights may be random."""
    file = tmp_path / "dial.yaml"
    file.write_text(yaml.safe_dump({"folder": str(tmp_path), "encoder_width": 64, "batch": 1}))
    monkeypatch.setenv(VARIABLE, str(file))


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is drawn, in order; each is checked by `check_figure`."""
    drawn: list[Any] = []
    save = canvas.png

    def checked(figure: Any) -> bytes:
        drawn.append(figure)
        data = save(figure)
        check_figure(figure)
        return data

    monkeypatch.setattr(canvas, "png", checked)
    return drawn


def check_figure(figure: Any) -> None:
    """No line begins with an empty panel; no title or label is cut or lies on another."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    page, titles = figure.bbox, []
    for number, axis in enumerate(figure.axes):
        filled, spec = axis.images or axis.patches, axis.get_subplotspec()
        assert filled or not (axis.get_title() or spec.is_first_col()), f"panel {number} is empty"
        for text in (axis.title, *axis.get_yticklabels()):
            box = text.get_window_extent(renderer)
            inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
            assert not text.get_text() or (inside and box.y1 <= page.y1), f"cut: {text.get_text()}"
        if axis.get_title():
            titles.append((axis.get_title(), axis.title.get_window_extent(renderer)))
    for (one, a), (two, b) in combinations(titles, 2):
        assert not a.overlaps(b), f"{one!r} lies on {two!r}"
