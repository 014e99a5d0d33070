"""The notebook runs from its first cell to its last, and is stored without outputs."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import svp

NOTEBOOK = Path(svp.__file__).parent / "workflows" / "examples" / "photograph_to_budget.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_stored_without_outputs() -> None:
    counted = [c for c in CELLS if c["cell_type"] == "code"]
    assert [(c["outputs"], c["execution_count"]) for c in counted] == [([], None)] * len(counted)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="pip install 'svp[figures]'")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.py").write_text("\n\n".join(CODE))
    names = runpy.run_path("cells.py")
    points: list[tuple[float, float]] = names["points"]
    tokens = [count for count, _ in points]
    assert tokens == sorted(tokens) and tokens[0] < 4 and tokens[-1] < names["seen"].patches
    assert points[-1][1] > 0.6 > points[0][1]  # with all superpixels, and with two
