"""Makes tests/fixtures/scenes importable by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "fixtures" / "scenes"))
