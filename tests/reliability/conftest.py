"""Makes the registry and its table importable by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
