"""Overrides of a recipe: from text, as text, and applied."""

from typing import Any

import pytest

from svp.pipeline.errors import ConfigError
from svp.pipeline.io.yaml_files import Override


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a.b=1", "a.b", 1),
        ("a=x=y", "a", "x=y"),
        ("a={b: [1, two]}", "a", {"b": [1, "two"]}),
        ("a=", "a", None),
        ("a='1'", "a", "1"),
        ("a='no'", "a", "no"),
        ("a=none", "a", "none"),
        ("a='b: c'", "a", "b: c"),
        ("a='[b'", "a", "[b"),
    ],
)
def test_text_is_read_as_yaml_and_written_so_that_it_is_read_again(
    text: str, path: str, value: object
) -> None:
    found = Override.parse(text)
    assert (found.path, found.value) == (path, value)
    assert Override.parse(str(found)) == found
    assert hash(Override.parse(str(found))) == hash(found)


@pytest.mark.parametrize("text", ["a.b", "=1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="want a.b=value"):
        Override.parse(text)


def test_a_recipe_changes_at_the_path_alone() -> None:
    raw: dict[str, Any] = {"stages": [{"steps": 1}, {"steps": 2}], "model": {"dtype": "float32"}}
    Override("stages.1.steps", 9).apply(raw)
    Override("model.lora.r", 4).apply(raw)
    assert raw == {
        "stages": [{"steps": 1}, {"steps": 9}],
        "model": {"dtype": "float32", "lora": {"r": 4}},
    }


def test_what_is_set_later_does_not_reach_the_override() -> None:
    """Rows of a table are shared by all seeds and changes."""
    projector = Override("projector", {"name": "svp", "options": {}})
    raw: dict[str, Any] = {}
    projector.apply(raw)
    Override("projector.options.num_queries", 2).apply(raw)
    assert projector.value == {"name": "svp", "options": {}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (Override("stages.2.steps", 1), "--set stages.2.steps=1: 2: want a number from 0 to 1"),
        (Override("stages.x", 1), "x: want a number from 0 to 1"),
        (Override("name.x.y", 1), "--set name.x.y=1: x is not a group of fields"),
    ],
)
def test_a_path_through_no_group_is_refused(override: Override, message: str) -> None:
    raw: dict[str, Any] = {"stages": [{}, {}], "name": {"x": 1}}
    with pytest.raises(ConfigError, match=message):
        override.apply(raw)
