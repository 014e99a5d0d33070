"""One process per cell of a table."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from svp.pipeline.errors import ConfigError
from svp.train.reproduce.trial_folder import at_work

HOLD = (
    "import sys, time; from pathlib import Path; from svp.train.reproduce.trial_folder import at_work\n"
    "with at_work(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def test_a_cell_belongs_to_one_process_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    cell = tmp_path / "runs" / "cell"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cell)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process is running it"), at_work(cell):
            pytest.fail("two processes at one cell")
        other.send_signal(signal.SIGKILL)
        other.wait()
    for _ in range(2):
        with at_work(cell):
            assert cell.is_dir()
