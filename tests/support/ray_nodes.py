"""Nodes of a Ray cluster on this machine, as processes with a Python of their own."""

import subprocess
import sys
import venv
from pathlib import Path

import svp


def bare_python(folder: Path, *, versions: dict[str, str] | None = None) -> Path:
    """A Python with the packages of this one.

    versions  of packages that seem to be installed in another version; None: svp itself is missing
    """
    venv.create(folder, with_pip=False)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # A folder that a .pth file adds is not searched for further ones: what is installed in place,
    # as svp is where tests run, is not found.
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "packages.pth").write_text("\n".join(paths) + "\n")
    if versions is not None:
        (packages / "svp").symlink_to(Path(svp.__file__).parent)
    for name, version in (versions or {}).items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder / "bin" / "python"


def start_node(address: str, python: Path | str = sys.executable) -> subprocess.Popen[bytes]:
    """A node of one CPU, in a process group of its own; start one after the other."""
    command = [str(python), "-m", "ray.scripts.scripts", "start", "--address", address]
    return subprocess.Popen(
        [*command, "--num-cpus", "1", "--object-store-memory", str(80 << 20), "--block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
