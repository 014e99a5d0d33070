"""The caches of fixtures/cache_v2: made once, read by every later version (test_golden).

PYTHONPATH=tests python -m support.make_cache_v2 FOLDER
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

from support import ROOT

CACHE_TESTS = ROOT / "tests/pipeline/cache"


def module(name: str) -> ModuleType:
    """A module of the tests of the cache, which are no package."""
    spec = importlib.util.spec_from_file_location(f"made_{name}", CACHE_TESTS / f"{name}.py")
    assert spec and spec.loader
    found = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def main(folder: Path) -> None:
    """One cache of each way to store features, and what a reader says of them."""
    builder, golden = module("conftest"), module("test_golden")
    expected = {}
    for name in golden.NAMES:
        plan = builder.make_plan(6, cls=True, stored=name)
        made = builder.Made(folder / name, plan, builder.make_rows(plan, bad=[2]))
        made.write()
        made.finish()
        shutil.rmtree(made.path / "logs")
        layers = {layer.folder: layer.id for layer in plan.layers}
        rows = golden.digests(made.path)
        expected[name] = {"id": plan.id, "layers": layers, "rows": rows}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
