"""The demo page: what its parts answer, what it refuses, whom it serves."""

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import svp
from support.micro_export import SVP, make
from svp.model.inference.attended import visual_attention
from svp.pipeline.errors import ConfigError
from svp.pipeline.records import Superpixels
from svp.train.data.prompts import fixed_turn
from svp.train.runs.demo import DemoRequest, build_page, demo_command, scenes, serve
from svp.train.runs.demo_pictures import Picture, attention_picture, picture
from svp.train.runs.demo_words import attention_words, facts, one_superpixel
from svp.train.runs.needs import HOST, require_port
from svp.train.runs.session import Attended

gradio = pytest.importorskip("gradio", reason="pip install 'svp[demo]'")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make(folder, SVP)
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
    (photo, sections), words, slider, *old = part("look", example[0])
    found = model.image(example[0]).superpixels
    assert photo.shape == (128, 128, 3) and words.startswith(f"{len(found)} superpixels")
    areas = [int(mask.sum()) for mask, _ in sections]
    assert areas == sorted(found.area.tolist(), reverse=True)
    name = sections[0][1]
    assert (slider.maximum, slider.value) == (len(found), len(found))
    assert old == [None, "", None, "", None], "the answer about another photograph is gone"
    said = part("click", example[0], None, SimpleNamespace(value=name))
    assert said.startswith(f"**Superpixel {name}**: {areas[0]:,} pixels")
    assert part("look", None)[:2] == (None, "")


def test_an_answer_is_the_segmenter_s_with_its_cost(
    part: Callable[..., Any], model: svp.Segmenter, example: tuple[str, str]
) -> None:
    session = model.image(example[0])
    overlay, words, *_ = part("ask", *example, False, session.kept)
    answer = model(*example)
    assert np.array_equal(overlay, np.asarray(answer.overlay))
    assert f"## {example[1]}" in words
    assert f"| visual tokens | {answer.tokens} | 256 |" in words
    for step in ("read its tokens", "answer"):
        assert re.search(rf"\| {step}, ms \| \d+ \| \d+ \|", words), words
    assert re.search(r"\| encode the photograph, ms \| \d+ \|  \|", words)
    assert f"{answer.area:,} pixels" in words or "The mask is empty." in words


def test_a_smaller_budget_has_fewer_tokens_and_one_for_the_rest(
    part: Callable[..., Any], model: svp.Segmenter, example: tuple[str, str]
) -> None:
    session = model.image(example[0])
    count = len(session.superpixels)
    few = session.at(2)
    assert (session.tokens, session.kept, few.tokens, few.kept) == (count, count, 3, 2)
    assert session.at(2) is few
    with pytest.raises(ConfigError, match="superpixels=0: need at least 1"):
        session.at(0)
    assert session.at(count).tokens == count, "no rest"
    whole = session.at(count)(example[1])
    assert np.array_equal(whole.mask, session(example[1]).mask)
    _, words, picture, about, attended = part("ask", *example, False, 2)
    assert "| visual tokens | 3 | 256 |" in words and few(example[1]).tokens == 3
    assert np.isnan(attended.shares).sum() == count - 2 and picture.shape == session.photo.shape
    assert f"| the rest, {count - 2} superpixels in one token |" in about
    again = part("ask_again", *example, False, 2)
    assert again[1].splitlines()[0] == words.splitlines()[0]
    assert part("ask_again", example[0], " ", False, 2) == gradio.skip()


def test_attention_is_divided_among_superpixels_by_their_tokens(
    model: svp.Segmenter, example: tuple[str, str]
) -> None:
    """Tokens stand in the order of falling area, whatever the superpixels' own order is."""
    session = model.image(example[0])
    found, whole = session.superpixels, session.attention(example[1])
    batch = session._asked([fixed_turn(example[1], session._vocab.wording)])
    weights = visual_attention(session._model, batch, session._prefix)[0].numpy()
    by_area = np.argsort(-found.area.astype(np.int64), kind="stable")
    assert np.array_equal(whole.shares[by_area], weights) and whole.rest == 0
    assert 0 < whole.total < 1 and whole.total == pytest.approx(float(weights.sum()), rel=1e-5)


def two() -> Picture:
    """The left half and a square in it."""
    masks = np.zeros((3, 20, 40), np.bool_)
    masks[0, :, :20], masks[1, 5:15, 5:15], masks[2, :, 20:] = True, True, True
    photo = np.full((20, 40, 3), (90, 120, 150), np.uint8)
    return Picture(photo, ("1 whole", "2 part", "3 whole"), masks, (0, 2, 1))


def test_the_most_attended_superpixel_is_the_most_orange() -> None:
    attended = Attended(np.array([0.1, 0.2, np.nan], np.float32), 0.1)
    drawn = attention_picture(two(), attended).astype(int)
    weak, strong, without = drawn[2, 2], drawn[10, 10], drawn[10, 30]
    assert without[0] == without[1] == without[2] and weak[0] - weak[2] > 40
    assert strong[0] - strong[2] > 1.5 * (weak[0] - weak[2])
    assert np.array_equal(drawn[10, 39], without), "no outline of one without a token"
    assert (drawn[5, 8] - drawn[10, 10]).sum() > 100, "an outline of one that has a token"
    words = attention_words(attended, two().names, [False, True, False])
    rows = [line for line in words.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        "| 2 part | 50% | yes |", "| 1 whole | 25% | no |",
        "| the rest, 1 superpixel in one token | 25% | |",
    ]  # fmt: skip
    assert "40% is on the photograph" in words


def test_a_click_tells_the_attention(model: svp.Segmenter, example: tuple[str, str]) -> None:
    found: Superpixels = model.image(example[0]).superpixels
    shares = np.full(len(found), np.nan, np.float32)
    shares[1] = 0.1
    attended = Attended(shares, 0.3)
    assert one_superpixel(found, "2 whole", attended).endswith(", 25% of the attention")
    assert one_superpixel(found, "1 whole", attended).endswith(", part of the rest at this budget")


def test_superpixels_in_the_mask_are_named(model: svp.Segmenter, example: tuple[str, str]) -> None:
    session = model.image(example[0])
    shown, answer = picture(session.photo, session.superpixels), model(*example)
    words = facts(session, replace(answer, mask=shown.masks[2]))
    inside = words.split("Superpixels in the mask: ")[1].split(".")[0].split(", ")
    assert "3" in inside
    words = facts(session, replace(answer, mask=np.zeros_like(answer.mask), rejected=True))
    assert "no such thing" in words and "Superpixels in the mask: none." in words


def test_a_model_that_reads_patches_has_no_slider(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "examples").mkdir()
    path, expression = scenes(tmp_path / "examples")[0]
    with svp.load(tmp_path / "export", size="tiny", device="cpu") as patches:
        session = patches.image(path)
        assert (session.reads_superpixels, session.kept, session.tokens) == (False, 0, 256)
        for refused in (lambda: session.at(2), lambda: session.attention("cup")):
            with pytest.raises(ConfigError, match="projector mlp makes no token of a superpixel"):
                refused()
        page = build_page(patches)
        functions = {one.fn.__name__: one.fn for one in page.fns.values() if one.fn is not None}
        assert functions["look"](path)[2] == gradio.skip()
        assert functions["ask"](path, expression, False, 2)[2:] == (None, "", None)


@pytest.mark.parametrize(
    ("photo", "expression", "why"),
    [(None, "cup", "Choose a photograph"), ("example", " ", "expression"),
     ("/etc/hostname", "cup", "not-an-image|no such photograph")],
)  # fmt: skip
def test_bad_input_is_told_on_the_page(
    part: Callable[..., Any], example: tuple[str, str], photo: str | None, expression: str, why: str
) -> None:
    with pytest.raises(gradio.Error, match=why):
        part("ask", example[0] if photo == "example" else photo, expression, False, 2)


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
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used") as caught:
            serve(build_page(model), port=port, wait=False)
    assert "GRADIO" not in str(caught.value) and "launch" not in str(caught.value)
    other = int(re.findall(r"--port (\d+)$", str(caught.value))[0])
    require_port(HOST, other)  # the remedy is one


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
