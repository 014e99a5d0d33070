"""Facts about the machine, and what is said where one is missing."""

from collections import namedtuple
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from svp.pipeline.doctor import machine

ROOT = Path(__file__).parents[3]
SECURITY_FLOORS = {  # reliability spec 6
    "torch": "2.10",
    "transformers": "5.3",
    "pillow": "12.2",
    "ray": "2.54",
    "zarr": "3.1",
    "numcodecs": "0.16.6",
    "pycocotools": "2.0.5",
}


def test_installed_packages_meet_the_floors() -> None:
    found = {package.name: package for package in machine.packages()}
    assert [p.detail for p in found.values() if p.status == "bad"] == []
    for name, floor in SECURITY_FLOORS.items():
        assert name in found
        if found[name].status == "ok":
            assert f">={floor}" in found[name].detail


def test_an_old_or_missing_package_is_bad_unless_optional(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"torch": "2.9.1", "numpy": "3.0.0rc1"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    wanted = ["torch>=2.10", "numpy>=2.1", "zarr>=3.1", 'ray>=2.54; extra == "ray"',
              "svp[ray]; extra == 'all'", 'ruff; extra == "dev"']  # fmt: skip
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    found = {package.name: package for package in machine.packages()}
    assert set(found) == {"torch", "numpy", "zarr", "ray"}
    assert found["torch"].status == "bad" and "2.9.1, needs >=2.10" in found["torch"].detail
    assert found["numpy"].status == "ok"
    assert found["zarr"].status == "bad" and "not installed" in found["zarr"].detail
    assert found["ray"].status == "note" and "svp[ray]" in found["ray"].detail


def test_no_metadata_is_said() -> None:
    (only,) = machine.packages("svp-is-not-here")
    assert only.status == "bad" and "floors unknown" in only.detail


def test_threads_and_cores_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = dict(machine.devices())
    assert "OMP_NUM_THREADS 3" in found["cpu"] and len(found) >= 2


def test_disk_of_a_folder_that_will_be_made(tmp_path: Path) -> None:
    ((name, text, _),) = machine.space(tmp_path / "a" / "b")
    assert name == "disk" and text.endswith(f"at {tmp_path}")


def test_full_disk_and_small_shm_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(64 << 20, 1, 60 << 20))
    ((_, text, enough),) = machine.space(tmp_path)
    assert not enough and text.startswith("0.1 GB free")
    shm = [fact for fact in machine.memory() if fact[0] == "/dev/shm"]
    assert all(not enough and "--shm-size" in text for _, text, enough in shm)


def requirements() -> dict[str, Requirement]:
    """Everything setup.cfg asks for, extras too, by name."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    blocks = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for block in blocks for line in block.split("\n") if line.strip()]
    found = [Requirement(line) for line in lines]
    return {one.name: one for one in found if one.name != "svp"}


def test_setup_and_constraints_meet_the_security_floors() -> None:
    asked = requirements()
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    for name, floor in SECURITY_FLOORS.items():
        below = Version(floor).release
        lower = Version(".".join([*map(str, below[:-1]), str(below[-1] - 1)]) + ".9999")
        assert floor in asked[name].specifier, f"{name} {floor} is refused by its own floor"
        assert lower not in asked[name].specifier, f"{name}: setup.cfg allows {lower}"
        assert Version(pinned[name]) >= Version(floor), f"constraints.txt: {name} {pinned[name]}"


def test_constraints_fit_setup() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    wrong = {
        name: pinned[name]
        for name, one in requirements().items()
        if name in pinned and not one.specifier.contains(pinned[name], prereleases=True)
    }
    assert wrong == {}
