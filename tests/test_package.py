"""Guards for the `svp = .` layout: import direction, light imports, doctests, wheel contents."""

import ast
import configparser
import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import svp
from support import FIXTURES, TESTS

ROOT = Path(svp.__file__).parent
LAYERS = [
    "pipeline",
    "model",
    "train",
    "integrations",
    "cli",
]  # each may import itself and those to its left
SOURCES = [ROOT / "cli.py", *(p for d in LAYERS[:-1] for p in sorted((ROOT / d).rglob("*.py")))]


def imports(path: Path) -> set[str]:
    """Absolute dotted names of everything `path` imports."""
    here, names = ("svp", *path.relative_to(ROOT).with_suffix("").parts), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: -node.level]] if node.level else []
            names |= {".".join([*base, *filter(None, [node.module]), a.name]) for a in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_direction(path: Path) -> None:
    own = LAYERS.index(path.relative_to(ROOT).with_suffix("").parts[0])
    for name in imports(path):
        head, *rest = name.split(".")
        assert head not in LAYERS, f"bare import {name}: write svp.{name}"
        if head == "svp" and rest and rest[0] in LAYERS:
            assert LAYERS.index(rest[0]) <= own, f"{name} points up the stack"


def test_root_import_is_light() -> None:
    code = "import sys, svp; print([m for m in sys.modules if m[:4] == 'svp.' or m == 'torch'])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "zarr", "transformers", "ray", "dask", "skimage", "PIL", "pydantic"}
    code = "import sys, svp.cli; print(' '.join(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not heavy & set(loaded)


def test_doctests_and_one_identity() -> None:
    for info in pkgutil.walk_packages(svp.__path__, "svp."):
        if info.name.split(".")[1] in LAYERS:
            assert doctest.testmod(importlib.import_module(info.name)).failed == 0, info.name
    assert not set(LAYERS) & set(sys.modules)


def test_setup_names_every_package() -> None:
    """What it leaves out is missing from the wheel."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    there = {path.parent for path in SOURCES if path.name == "__init__.py"}
    want = {"svp", *(f"svp.{folder.relative_to(ROOT)}".replace("/", ".") for folder in there)}
    assert set(setup["options"]["packages"].split()) == want


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheel_contents(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "build", "-o", str(tmp_path), str(ROOT)], check=True)
    got = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    paths = [ROOT / "__init__.py", ROOT / "__main__.py", ROOT / "py.typed", *SOURCES]
    ends = ("*.j2", "*.css", "*.js", "*.png")
    paths += (
        p for package in ("pipeline", "train") for e in ends for p in (ROOT / package).rglob(e)
    )
    paths += (
        path
        for path in (ROOT / "workflows").rglob("*")
        if path.is_file()
        and path.parent.name != "pretrain_tiny"  # made the shipped weights; stays here
    )
    want = {f"svp/{p.relative_to(ROOT)}" for p in paths if "__pycache__" not in p.parts}
    assert {n for n in got if ".dist-info/" not in n} == want
    answers_alone(next(tmp_path.glob("*.whl")), tmp_path / "alone")


def answers_alone(wheel: Path, folder: Path) -> None:
    """The files of the wheel, and no others of svp, segment an object of a scene."""
    zipfile.ZipFile(wheel).extractall(folder / "site")
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}

    def run(*words: str) -> str:
        return subprocess.check_output(
            [sys.executable, *words], cwd=folder, env=environment, text=True
        )

    assert str(folder / "site") in run("-c", "import svp; print(svp.__file__)")
    run("-m", "svp", "data", "synth", "scenes", "--images", "20")
    (sentence, *_) = svp.open_dataset(folder / "scenes", split="val").sentences
    image = next((folder / "scenes" / "images").glob("val*"))
    report = json.loads(
        run("-m", "svp", "predict", str(image), sentence.sent, "--checkpoint", "tiny", "--json")
    )
    (found,) = report["predictions"]
    assert found["area"] > 0 and 1 < report["tokens"] < 256
    assert all((folder / file).is_file() for file in report["files"])


# Tests of what stands on the path: a module found there, an entry point, an example beside another.
ON_THE_PATH = {
    "forked.py",
    "test_encoder_specs.py",
    "test_from_outside.py",
    "test_package.py",
    "test_plugin_commands.py",
    "test_plugins.py",
    "test_pretrain_tiny.py",
    "test_sam_specs.py",
    "test_trackers.py",
}
PATH_EDIT = re.compile(r"sys\.path(\.(insert|append|extend)\(|\[.*\] *=| *\+?=)|syspath_prepend\(")


def test_no_test_leans_on_sys_path() -> None:
    """Helpers lie in tests/support, a package; tests/fixtures holds data only."""
    files = [path for path in TESTS.rglob("*.py") if path.name not in ON_THE_PATH]
    assert [str(path) for path in files if PATH_EDIT.search(path.read_text("utf-8"))] == []
    setters = [
        path for path in files if re.search(r"""["']PYTHONPATH["']""", path.read_text("utf-8"))
    ]
    assert setters == [TESTS / "conftest.py"]
    assert [str(path) for path in FIXTURES.rglob("*.py")] == []


@pytest.mark.parametrize("line", ["sys.path.insert(0, x)", "sys.path[:0] = [x]", "sys.path += [x]"])
def test_the_rule_sees_an_edit_of_the_path(line: str) -> None:
    assert PATH_EDIT.search(line)


def test_the_tests_mirror_the_tree() -> None:
    """A folder of tests is named as the package that it tests."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    beside = {Path(), Path("contracts"), Path("reliability"), Path("workflows")}
    lost = [str(f) for f in sorted(folders - beside) if not (ROOT / f / "__init__.py").exists()]
    assert lost == []


def test_a_slow_strategy_fails_no_test() -> None:
    """A busy machine generates slowly: that says nothing of the code."""
    assert HealthCheck.too_slow in settings.default.suppress_health_check
    for path in TESTS.rglob("*.py"):
        for names in re.findall(r"suppress_health_check=\[(.*?)\]", path.read_text("utf-8")):
            assert "too_slow" in names, path
