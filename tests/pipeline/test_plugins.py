"""Plug-ins: found by file and by entry point, told from each other, refused with a reason."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline import plugins
from svp.pipeline.commands.console import Root
from svp.pipeline.errors import ConfigError, MissingError


class Base:
    """What the classes of this test's registry inherit."""


class Own(Base):
    """In the registry from the start."""


class Other:
    """Of another kind."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Base]]:
    """A registry of this package, as files register in it: through `sys`."""
    found: dict[str, type[Base]] = {"own": Own}
    monkeypatch.setattr(sys, "registry_of_test", (found, Base), raising=False)
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import sys\nfound, Base = sys.registry_of_test\n"
        "class Mine(Base): pass\nfound['mine'] = Mine\n"
    )
    return found


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith("svp_plugin_")]:
        del sys.modules[name]


def look(registry: dict[str, type[Base]], name: str) -> type[Base]:
    plugins.attach("svp.tests", registry, Base)
    return plugins.lookup("svp.tests", name)


def test_a_file_registers_for_the_time_of_a_command(registry: dict[str, type[Base]]) -> None:
    with plugins.plugins(["mine.py"]):
        assert os.environ["SVP_PLUGIN"] == str(Path("mine.py").absolute())
        mine = look(registry, "mine")
        assert mine.__name__ == "Mine" and look(registry, "own") is Own
        assert look(registry, "mine") is mine, "run once"
        assert sys.modules[mine.__module__].Mine is mine, "can be pickled"
    assert "SVP_PLUGIN" not in os.environ


def test_files_of_the_environment_stay(
    registry: dict[str, type[Base]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("second.py").write_text("import sys\nsys.registry_of_test[0]['second'] = int\n")
    monkeypatch.setenv("SVP_PLUGIN", f"mine.py{os.pathsep}")
    with plugins.plugins(["second.py"]):
        assert look(registry, "mine").__name__ == "Mine"
        with pytest.raises(ConfigError, match="test second: its plug-in gives .*int.*Base"):
            look(registry, "second")
    assert os.environ["SVP_PLUGIN"] == f"mine.py{os.pathsep}"


def test_an_entry_point(registry: dict[str, type[Base]], monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path("packages/mine-1.0.dist-info")
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
    here = f"{Base.__module__}:"
    (package / "entry_points.txt").write_text(
        f"[svp.tests]\nfar = {here}Own\nwrong = {here}Other\ngone = {here}Gone\n"
    )
    monkeypatch.syspath_prepend("packages")
    importlib.invalidate_caches()
    assert look(registry, "far") is Own and registry["far"] is Own
    with pytest.raises(ConfigError, match=r"test wrong: .*Other.*want a subclass of .*Base"):
        look(registry, "wrong")
    with pytest.raises(ConfigError, match=r"entry point svp.tests gone = .*AttributeError"):
        look(registry, "gone")
    with pytest.raises(ConfigError, match="test no: allowed are far, gone, own, wrong .*--pl"):
        look(registry, "no")


def test_a_known_name_asks_no_installed_package(
    registry: dict[str, type[Base]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes longer than building a small projector, and is asked at every look at one."""

    def asked(**words: str) -> None:
        raise AssertionError(words)

    monkeypatch.setattr(plugins, "entry_points", asked)
    assert look(registry, "own") is Own


def test_a_file_that_was_changed_runs_again(registry: dict[str, type[Base]]) -> None:
    """A notebook and a Dask worker outlive an edit; caches record the file as it is now."""
    with plugins.plugins(["mine.py"]):
        old = look(registry, "mine")
        text = Path("mine.py").read_text()
        Path("mine.py").write_text(text.replace("'mine'", "'other'"))
        new = look(registry, "other")
        assert new is not old and new.__module__ != old.__module__
        with pytest.raises(ConfigError, match="test mine: allowed are other, own"):
            look(registry, "mine")
        Path("mine.py").write_text(text)
        assert look(registry, "mine") is not old and set(registry) == {"own", "mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all", "bad.py: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise KeyError('k')", "bad.py: KeyError: 'k'"),
        ("def f(:", "bad.py: SyntaxError"),
        ("import sys; sys.exit(3)", "bad.py: SystemExit: 3"),
        ("import sys; sys.registry_of_test[0]['own'] = int", "bad.py: ValueError: the name own is"),
    ],
)
def test_a_file_that_fails(registry: dict[str, type[Base]], text: str, message: str) -> None:
    Path("bad.py").write_text(text)
    plugins.attach("svp.tests", registry, Base)
    for _ in range(2):  # also the second time
        with plugins.plugins(["bad.py"]), pytest.raises(ConfigError, match=message):
            look(registry, "own")
    assert registry["own"] is Own


def test_a_file_that_fails_registers_nothing(registry: dict[str, type[Base]]) -> None:
    Path("half.py").write_text(Path("mine.py").read_text() + "raise KeyError('k')\n")
    plugins.attach("svp.tests", registry, Base)
    with plugins.plugins(["half.py"]), pytest.raises(ConfigError, match="half.py: KeyError"):
        look(registry, "mine")
    assert registry == {"own": Own}


def test_a_row_is_an_instance(registry: dict[str, type[Base]]) -> None:
    plugins.attach("svp.tests", {"row": 7, "kind": int}, int, instances=True)
    assert plugins.lookup("svp.tests", "row") == 7 and plugins.find("svp.tests", "no") is None
    with pytest.raises(ConfigError, match="test kind: .*int.*want an instance of builtins.int"):
        plugins.lookup("svp.tests", "kind")


def test_a_file_that_is_not_there_or_no_python(registry: dict[str, type[Base]]) -> None:
    with pytest.raises(MissingError, match=r"--plugin no\.py .*SVP_PLUGIN.*is not a file"):
        plugins.plugins(["no.py"]).__enter__()
    Path("mine.txt").write_text("x = 1")
    with plugins.plugins(["mine.txt"]), pytest.raises(ConfigError, match=r"name in \.py"):
        look(registry, "own")


@pytest.mark.parametrize(
    "words",
    [
        ("--plugin", "mine.py", "seen", "--x", "1"),
        ("seen", "--plugin", "mine.py", "--x", "1"),
        ("seen", "--x", "1", "--plugin=mine.py"),
    ],
)
def test_before_or_after_the_command(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()

    @click.group(cls=Root)
    @click.option("--plugin", "plugins", multiple=True)
    def group() -> None: ...

    @group.command("seen")
    @click.option("--x")
    def seen(x: str) -> None:
        click.echo(f"{x} {Path(os.environ['SVP_PLUGIN']).name}")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert CliRunner().invoke(group, words).output == "1 mine.py\n"


def test_the_command_line_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = ["train", "--projector", "mine", "--dry-run"]  # without, a cache is asked for first
    for words, code, text in (
        (["--plugin", "no.py", "data", "synth", "x"], 3, "--plugin no.py"),
        (["data", "synth", "x", "--plugin"], 2, "--plugin wants the path"),
        (mine, 2, "allowed are adatok, c_abstractor, d_abstractor"),
        (mine, 2, "--plugin FILE, or a package with an entry point"),
    ):
        result = CliRunner().invoke(main, words)
        assert (result.exit_code, text in result.output) == (code, True), result.output
        assert not list(tmp_path.iterdir())


def test_help_stays_light() -> None:
    code = "import sys; from svp.cli import main; main(['--help'], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert said.returncode == 0 and "--plugin FILE" in said.stdout


@pytest.mark.parametrize("first", ["", "import svp.model.projectors; "])
def test_a_taken_name_is_refused_whatever_was_imported_before(first: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from svp.model.projectors import PROJECTORS\n"
        "class Mine(PROJECTORS['mlp']): pass\n"
        "PROJECTORS['mlp'] = Mine\n"
    )
    code = f"{first}from svp.pipeline import plugins; plugins.load_files()"
    environment = os.environ | {"SVP_PLUGIN": str(file)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1 and "the name mlp is taken" in run.stderr, run.stderr[-500:]
