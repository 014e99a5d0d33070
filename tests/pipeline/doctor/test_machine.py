"""Facts about the machine, and what is said where one is missing."""

from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from svp.pipeline.doctor import machine

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
