"""Nodes of a Ray cluster on this machine, as processes with a Python of their own."""

import os
import site
import subprocess
import sys
import venv
from pathlib import Path


def bare_python(folder: Path) -> Path:
    """A Python that has the packages of this one, but no svp that is installed in place."""
    venv.create(folder, with_pip=False)
    (found,) = (folder / "lib").glob("python*/site-packages")
    paths = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
    (found / "packages.pth").write_text("\n".join(paths) + "\n")
    return folder / "bin" / "python"


def other_version(folder: Path, package: str, version: str) -> Path:
    """A folder for PYTHONPATH by which `package` seems to be installed in another version."""
    (folder / f"{package}-{version}.dist-info").mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    (folder / f"{package}-{version}.dist-info" / "METADATA").write_text(text)
    return folder


def start_node(
    address: str, python: Path | str = sys.executable, path: Path | None = None
) -> subprocess.Popen[str]:
    """A node of one CPU; `path` comes first in its PYTHONPATH."""
    paths = [str(path)] if path else []
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    }
    command = [str(python), "-m", "ray.scripts.scripts", "start", "--address", address]
    return subprocess.Popen(
        [*command, "--num-cpus", "1", "--object-store-memory", str(80 << 20), "--block"],
        env=env,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
