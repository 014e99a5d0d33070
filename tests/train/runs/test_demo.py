"""The demo page: what its parts answer, what it refuses, whom it serves."""

import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import svp
from support.micro_export import make
from svp.pipeline.errors import ConfigError
from svp.train.runs.demo import DemoRequest, build_page, demo_command, picture, scenes, serve

gradio = pytest.importorskip("gradio", reason="pip install 'svp[demo]'")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make(folder)
    return folder


@pytest.fixture(scope="module")
def model(root: Path) -> svp.Segmenter:
    return svp.load(root / "export", size="tiny", device="cpu")


@pytest.fixture(scope="module")
def example(root: Path) -> tuple[str, str]:
    (root / "examples").mkdir()
    return scenes(root / "examples")[0]


@pytest.fixture(scope="module")
def page(model: svp.Segmenter, example: tuple[str, str]) -> Any:
    return build_page(model, "a notice", [example])


@pytest.fixture(scope="module")
def part(page: Any) -> Callable[..., Any]:
    functions = {one.fn.__name__: one.fn for one in page.fns.values() if one.fn is not None}
    return lambda name, *args: functions[name](*args)


def test_a_photograph_shows_its_superpixels_the_largest_at_the_back(
    part: Callable[..., Any], model: svp.Segmenter, example: tuple[str, str]
) -> None:
    (photo, sections), words = part("look", example[0])
    found = model.image(example[0]).superpixels
    assert photo.shape == (128, 128, 3) and words.startswith(f"{len(found)} superpixels")
    areas = [int(mask.sum()) for mask, _ in sections]
    assert areas == sorted(found.area.tolist(), reverse=True)
    name = sections[0][1]
    said = part("click", example[0], SimpleNamespace(value=name))
    assert said.startswith(f"**Superpixel {name}**: {areas[0]:,} pixels")
    assert part("look", None) == (None, "")


def test_an_answer_is_the_segmenter_s_with_its_cost(
    part: Callable[..., Any], model: svp.Segmenter, example: tuple[str, str]
) -> None:
    overlay, words = part("ask", *example, False)
    answer = model(*example)
    assert np.array_equal(overlay, np.asarray(answer.overlay))
    assert f"### {example[1]}" in words and "| answer, ms |" in words
    assert f"| visual tokens | {answer.tokens} | 256 |" in words
    assert f"{answer.area:,} pixels" in words or "The mask is empty." in words


def test_superpixels_in_the_mask_are_named(model: svp.Segmenter, example: tuple[str, str]) -> None:
    from dataclasses import replace

    from svp.train.runs.demo import facts

    session = model.image(example[0])
    shown, answer = picture(session.photo, session.superpixels), model(*example)
    words = facts(session, replace(answer, mask=shown.masks[2]))
    inside = words.split("Superpixels in the mask: ")[1].split(".")[0].split(", ")
    assert "3" in inside
    words = facts(session, replace(answer, mask=np.zeros_like(answer.mask), rejected=True))
    assert "no such thing" in words and "Superpixels in the mask: none." in words


@pytest.mark.parametrize(
    ("photo", "expression", "why"),
    [(None, "cup", "Choose a photograph"), ("example", " ", "expression"),
     ("/etc/hostname", "cup", "not-an-image|no such photograph")],
)  # fmt: skip
def test_bad_input_is_told_on_the_page(
    part: Callable[..., Any], example: tuple[str, str], photo: str | None, expression: str, why: str
) -> None:
    with pytest.raises(gradio.Error, match=why):
        part("ask", example[0] if photo == "example" else photo, expression, False)


@pytest.fixture(scope="module")
def address(page: Any) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield serve(page, port=port, wait=False)
    page.close()


def test_the_page_is_served_and_no_file_of_the_machine(
    page: Any, address: str, example: tuple[str, str]
) -> None:
    assert address.startswith("http://127.0.0.1:")
    body = urllib.request.urlopen(address).read().decode()
    assert "svp: visual words" in body
    for path in ("/etc/hostname", example[0]):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
    named = urllib.request.urlopen(f"{address}gradio_api/info").read()
    assert named == b'{"named_endpoints":{},"unnamed_endpoints":{}}', "no interface for programs"


def test_a_port_that_is_taken_is_told(model: svp.Segmenter) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used: --port"):
            serve(build_page(model), port=port, wait=False)


def test_tiny_models_are_refused_without_saying_so(root: Path) -> None:
    request = DemoRequest(checkpoint=root / "export", device="cpu")
    with pytest.raises(ConfigError, match="photographs of visitors: not generated scenes"):
        demo_command(request)


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"own_sam": True}, "--own-sam is for --published"),
     ({"published": "folder", "cache": Path("c")}, "leave out --cache"),
     ({"published": "folder", "own_sam": True, "sam_weights": Path("s")}, "replaces --sam-weights")],
)  # fmt: skip
def test_contradictory_options_are_refused(asked: dict[str, Any], why: str) -> None:
    """As `svp predict` refuses them: both name a model by the same options."""
    with pytest.raises(ConfigError, match=why):
        DemoRequest(**asked)
