"""Real file systems without space: a small tmpfs under a cache, under checkpoints, as /dev/shm."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.kill_trials import PROGRAM, start, tree
from svp.pipeline.errors import CacheError

# The run would see beforehand that the space does not suffice: here it must meet the full disk.
UNCHECKED = """
import sys
from support import fake_run
from svp.pipeline.precompute import run
run._check_disk = lambda *arguments: None
sys.exit(fake_run.main())
"""
Mount = Callable[[str], Path]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Mount]:
    """`small(size)`: a folder on a tmpfs of that size; skips where mounting is refused."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"small{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"mounting a tmpfs is refused: {getattr(error, 'stderr', error)}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", ["60k", "160k", "260k"])
def test_a_full_file_system(size: str, small: Mount, world: Path) -> None:
    """At the first files, in the middle and near the end; then there is space again."""
    folder = small(size)
    command = [sys.executable, "-c", UNCHECKED]
    command += [str(folder / "c"), str(world / "images")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "run the same command again" in done.stderr
    made = {name: data for name, data in tree(folder / "c").items() if "partial" not in name}
    clean = tree(world / "clean")
    assert made.items() <= clean.items(), "something half-written has its final name"
    subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
    run = start(folder / "c", world / "images")
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    committed = sum("manifest/" in name and name.startswith("features/") for name in made)
    assert json.loads(out)["computed"] == 40 - 6 * committed
    assert tree(folder / "c") == clean


def test_a_full_file_system_under_a_checkpoint(small: Mount) -> None:
    """The checkpoint before stays; nothing of the new one is left."""
    import torch

    from svp.train.trainer.checkpoint import State, checkpoints, save_checkpoint

    folder = small("256k")
    state = State(
        schema_version=1, step=1, stage=0, stage_step=1, recipe={}, data={}, cursor={}, world=1,
        micro_batch=1,
    )  # fmt: skip
    save_checkpoint(folder, state, {"w": torch.arange(100.0)}, {"w/m": torch.ones(100)})
    big = {"w": torch.zeros(100_000)}
    with pytest.raises(CacheError, match="No space left on device.*free some space.*--resume auto"):
        save_checkpoint(folder, state.model_copy(update={"step": 2}), big, {})
    (kept,) = checkpoints(folder)
    assert kept.state.step == 1 and kept.weights()["w"].sum() == 4950
    assert os.listdir(folder) == [kept.path.name]


def test_shared_memory_full(world: Path, tmp_path: Path) -> None:
    """A /dev/shm of four pages, all taken, in a mount namespace of this test alone."""
    # Only where the mount worked is anything written there: the machine's own stays as it is.
    mount = "mount -t tmpfs -o size=16k tmpfs /dev/shm || exit 99"
    fill = "cat /dev/zero > /dev/shm/full; (echo x > /dev/shm/more) && exit 98"
    inner = f'({mount}; {fill}; exit 0) 2>/dev/null || exit $?; exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inner, "sh"]
    command += [sys.executable, str(PROGRAM), str(tmp_path / "c"), str(world / "images")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    except OSError as error:
        pytest.skip(f"no unshare here: {error}")
    assert done.returncode != 98, "the shared memory is not full"
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"a mount namespace is refused: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "c") == tree(world / "clean")
