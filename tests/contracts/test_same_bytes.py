"""What the commands write is, byte for byte, what they wrote before the packages were renamed."""

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "fixtures" / "same_bytes"


@pytest.mark.timeout(900)
def test_shards_checkpoints_and_results_are_those_of_the_commit_before(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("same_bytes", HERE / "same_bytes.py")
    assert spec is not None
    assert spec.loader is not None
    same_bytes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(same_bytes)
    before = json.loads((HERE / "digests.json").read_text())
    if same_bytes.environment() != before["environment"]:
        pytest.skip("another processor or other library versions round differently")
    found = same_bytes.make(tmp_path)
    assert found.keys() == before["files"].keys()
    assert [name for name in found if found[name] != before["files"][name]] == []
