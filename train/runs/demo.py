"""`svp demo`: ask a model about a photograph in the browser.

The page is Gradio's (extra `demo`), served to this machine alone: nothing is shared, no path is
taken from a visitor, and requests wait in a short queue for the one model.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...pipeline.datasets.scenes import make_scene
from ...pipeline.display import counted
from ...pipeline.errors import ConfigError, MissingPackageError, SvpError
from ...pipeline.masks import rle
from ...pipeline.records import PART, SUB_PART, WHOLE, Superpixels
from ..cli_defaults import SEED
from .answer import Answer
from .asked_model import ModelRequest
from .segmenter import Segmenter
from .session import ImageSession

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
WAITING = 16  # requests in the queue; further ones are told to come back
LARGEST_FILE = "20mb"
LEVELS = {SUB_PART: "sub-part", PART: "part", WHOLE: "whole"}
TOY = (
    "**A tiny model answers here.** It knows generated scenes, such as the examples below, and no "
    "photographs."
)
EXAMPLES = 6
SHOWN = 380  # height of pictures on the page, pixels
TITLE = "svp: visual words for referring segmentation"
Sections = list[tuple[NDArray[np.uint8], str]]


@dataclass(frozen=True)
class Picture:
    """A photograph on the page: its superpixels, the largest at the back."""

    photo: NDArray[np.uint8]
    names: tuple[str, ...]
    masks: NDArray[np.bool_]
    order: tuple[int, ...]

    @property
    def sections(self) -> Sections:
        """For `gradio.AnnotatedImage`."""
        return [(self.masks[k].astype(np.uint8), self.names[k]) for k in self.order]


def picture(photo: NDArray[np.uint8], found: Superpixels) -> Picture:
    """The superpixels of an (H,W,3) uint8 photograph, named "12 part" and so on."""
    masks = np.stack([rle.decode(one) for one in found.masks()]).astype(bool)
    names = tuple(f"{k} {LEVELS[int(level)]}" for k, level in enumerate(found.level, 1))
    order = tuple(int(k) for k in np.argsort(-found.area, kind="stable"))
    return Picture(photo, names, masks, order)


def facts(session: ImageSession, answer: Answer) -> str:
    """Markdown: what was found, what it cost."""
    tokens, patches = answer.tokens, session.patches
    if answer.rejected:
        found = "There is no such thing, says the model."
    elif not answer.area:
        found = "The mask is empty."
    else:
        share = answer.area / answer.mask.size
        found = f"**{answer.area:,} pixels** ({share:.1%} of the image), score {answer.score:.2f}."
    lines = [
        f"### {answer.expression}",
        found,
        *([f"The model says: {answer.text}"] if answer.text else []),
        "",
        "| | this model | one token per patch |",
        "|---|---|---|",
        f"| visual tokens | {tokens} | {patches} |",
        *(f"| {name}, ms | {1e3 * s:.0f} | |" for name, s in answer.timings.items()),
        "",
        f"{_inside(answer)} Every further expression costs the answer alone.",
    ]
    return "\n".join(lines)


def _inside(answer: Answer) -> str:
    """Superpixels that lie in the mask, more than half of each."""
    masks = [rle.decode(one).astype(bool) for one in answer.superpixels.masks()]
    inside = [k for k, m in enumerate(masks, 1) if (m & answer.mask).sum() * 2 > m.sum()]
    return f"Superpixels in the mask: {', '.join(map(str, inside)) or 'none'}."


def one_superpixel(found: Superpixels, name: str) -> str:
    """Markdown about the superpixel that was clicked, by its name on the page."""
    k = int(name.split()[0]) - 1
    x1, y1, x2, y2 = (int(v) for v in found.box[k])
    return (
        f"**Superpixel {name}**: {int(found.area[k]):,} pixels "
        f"({found.area[k] / (found.height * found.width):.1%}), SAM's IoU estimate "
        f"{found.predicted_iou[k]:.2f}, stability {found.stability[k]:.2f}, box x {x1}-{x2}, y {y1}-{y2}"
    )


def build_page(segmenter: Segmenter, notice: str = "", examples: Sequence[Any] = ()) -> Any:
    """The page as `gradio.Blocks`.

    notice    a line of Markdown above everything
    examples  pairs of a photograph's path and an expression

    Raises MissingPackageError without Gradio.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingPackageError("gradio", "demo", "svp demo") from error

    def seen(path: str | None) -> ImageSession:
        if path is None:
            raise gr.Error("Choose a photograph first.")
        try:
            return segmenter.image(path)
        except SvpError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def look(path: str | None) -> tuple[Any, str]:
        if path is None:
            return None, ""
        session = seen(path)
        shown = picture(session.photo, session.superpixels)
        words = counted(len(shown.masks), "superpixel")
        return (shown.photo, shown.sections), f"{words}. Click one to see what it is."

    def ask(path: str | None, expression: str, generate: bool) -> tuple[Any, str]:
        session = seen(path)
        try:
            answer = session(expression, generate=generate)
        except SvpError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return np.asarray(answer.overlay), facts(session, answer)

    def click(path: str | None, event: gr.SelectData) -> str:
        return one_superpixel(seen(path).superpixels, str(event.value))

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n\n{notice}")
        with gr.Row():
            with gr.Column(min_width=320):
                photo = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], label="Photograph",
                    image_mode=None, buttons=[], height=SHOWN, alt_text="The photograph",
                )  # fmt: skip
                expression = gr.Textbox(
                    label="Expression", placeholder="the man left of the umbrella", max_length=500
                )
                generate = gr.Checkbox(
                    label="Let the model answer by itself (it may find nothing)", value=False
                )
                button = gr.Button("Segment", variant="primary")
            with gr.Column(min_width=320):
                mask = gr.Image(
                    label="Answer", interactive=False, buttons=["download", "fullscreen"], height=SHOWN,
                    alt_text="The photograph with the answer's mask in blue",
                )  # fmt: skip
                about = gr.Markdown()
        superpixels = gr.AnnotatedImage(
            label="Superpixels: what the language model reads", height=SHOWN
        )
        one = gr.Markdown()
        if examples:
            gr.Examples([list(row) for row in examples], [photo, expression])
        photo.change(look, photo, [superpixels, one], api_visibility="private")
        for event in (button.click, expression.submit):
            event(ask, [photo, expression, generate], [mask, about], api_visibility="private")
        superpixels.select(click, photo, one, api_visibility="private")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def serve(page: Any, *, port: int, open_browser: bool = False, wait: bool = True) -> str:
    """Serve `page` on this machine; returns its address at once unless `wait`.

    Raises ConfigError if the port is taken.
    """
    log.info(f"page: http://{HOST}:{port}/ (Ctrl-C ends it)")
    try:
        _, address, _ = page.launch(
            server_name=HOST, server_port=port, share=False, max_file_size=LARGEST_FILE,
            allowed_paths=[], inbrowser=open_browser, prevent_thread_lock=not wait, quiet=True,
            footer_links=[], enable_monitoring=False, ssr_mode=False,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used: --port with another number ({error})"
        ) from error
    return str(address)


@dataclass(frozen=True, kw_only=True)
class DemoRequest(ModelRequest):
    """Options of `svp demo`: a model, and where its page is served."""

    port: int = 7860
    open_browser: bool = False


def demo_command(request: DemoRequest) -> None:
    """Serve the page until interrupted.

    Raises ConfigError (tiny models without --size tiny, a port that is taken), and as `load`.
    """
    segmenter = request.open()
    segmenter.require_real("the photographs of visitors")
    if request.size != "tiny":
        serve(build_page(segmenter), port=request.port, open_browser=request.open_browser)
        return
    with tempfile.TemporaryDirectory() as folder:
        page = build_page(segmenter, TOY, scenes(Path(folder)))
        serve(page, port=request.port, open_browser=request.open_browser)


def scenes(folder: Path) -> list[tuple[str, str]]:
    """Held-out generated scenes, written to `folder`, with an expression each."""
    made = []
    for index in range(EXAMPLES):
        scene = make_scene(SEED, index, "testA")
        path = folder / f"scene-{index}.png"
        Image.fromarray(scene.image).save(path)
        made.append((str(path), scene.phrases[0].text))
    return made
