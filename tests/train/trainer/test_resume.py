"""What is said of a folder that holds no checkpoint."""

from pathlib import Path

import pytest

from svp.pipeline.errors import MissingError, WeightsError
from svp.train.trainer.resume import named_checkpoint


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_a_damaged_export_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        named_checkpoint(tmp_path)


def test_a_published_folder_is_told_its_option(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="a run folder with one in it$"):
        named_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(MissingError, match="model_type llava.*--published or --init"):
        named_checkpoint(tmp_path)
