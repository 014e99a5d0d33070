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
from PIL import Image

from ...pipeline.datasets.scenes import make_scene
from ...pipeline.display import counted
from ...pipeline.errors import MissingPackageError, SvpError
from ..cli_defaults import SEED
from .asked_model import ModelRequest
from .demo_pictures import attention_picture, picture
from .demo_words import attention_words, facts, in_mask, one_superpixel
from .needs import HOST, require_demo, require_port
from .segmenter import Segmenter
from .session import Attended, ImageSession

log = logging.getLogger(__name__)

WAITING = 16  # requests in the queue; further ones are told to come back
LARGEST_FILE = "20mb"
TOY = (
    "**A tiny model answers here.** It knows generated scenes, such as the examples below, and no "
    "photographs."
)
ORDER = (
    "They are listed as the language model reads them, the largest first; the numbers count them level "
    "by level, as `svp cache browse` does."
)
EXAMPLES = 6
EMPTY = (64, 64)  # (H,W) of the photograph that nothing is in
SHOWN = 380  # height of pictures on the page, pixels
PICTURE = "svp-picture"
CSS = f".{PICTURE} img {{ width: 100%; height: 100%; object-fit: contain; }}"  # small ones, too
TITLE = "svp: visual words for referring segmentation"
MODEL = "model"  # whose requests wait for one another, whatever they ask for
# Where Gradio's own have less contrast than WCAG 2.2, 1.4.3 asks for.
COLOURS = {
    "button_primary_background_fill": "#0067a6",
    "button_primary_background_fill_hover": "#00558a",
    "button_primary_background_fill_dark": "#0067a6",
    "button_primary_background_fill_hover_dark": "#00558a",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
}


def build_page(segmenter: Segmenter, notice: str = "", examples: Sequence[Any] = ()) -> Any:
    """The page as `gradio.Blocks`. An empty photograph is asked about first: what is set up at the
    first time is set up then, and it is measured what a token per patch costs here.

    notice    a line of Markdown above everything
    examples  pairs of a photograph's path and an expression

    Raises MissingPackageError without Gradio.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingPackageError("gradio", "demo", "svp demo") from error

    first = segmenter.image(np.full((*EMPTY, 3), 128, np.uint8))
    first("it")
    patches, selects = first.cost_with(first.patches), first.reads_superpixels

    def told(error: SvpError) -> gr.Error:
        return gr.Error(str(error), print_exception=False)

    def seen(path: str | None) -> ImageSession:
        if path is None:
            raise gr.Error("Choose a photograph first.")
        try:
            return segmenter.image(path)
        except SvpError as error:
            raise told(error) from error

    def look(path: str | None) -> tuple[Any, ...]:
        """Superpixels and words about them, the slider; what was shown of another answer goes."""
        nothing = (None, "", None, "", None)
        if path is None:
            return None, "", gr.skip(), *nothing
        session = seen(path)
        shown, kept = picture(session.photo, session.superpixels), session.kept
        words = counted(len(shown.masks), "superpixel")
        slider = gr.Slider(maximum=max(2, len(shown.masks)), value=kept) if selects else gr.skip()
        said = f"{words}. Click one to see what it is. {ORDER}"
        return (shown.photo, shown.sections), said, slider, *nothing

    def ask(path: str | None, expression: str, generate: bool, budget: float) -> tuple[Any, ...]:
        session = seen(path)
        try:
            if selects and int(budget) != session.kept:
                session = session.at(int(budget))
            answer = session(expression, generate=generate)
            attended = session.attention(expression) if selects else None
        except SvpError as error:
            raise told(error) from error
        answered = np.asarray(answer.overlay), facts(session, answer, patches)
        if attended is None:
            return *answered, None, "", None
        shown = picture(session.photo, session.superpixels)
        words = attention_words(attended, shown.names, in_mask(answer))
        return *answered, attention_picture(shown, attended), words, attended

    def ask_again(path: str | None, expression: str, generate: bool, budget: float) -> Any:
        """With another budget; before there is a question nothing happens."""
        asked = path is not None and expression.strip()
        return ask(path, expression, generate, budget) if asked else gr.skip()

    def click(path: str | None, attended: Attended | None, event: gr.SelectData) -> str:
        return one_superpixel(seen(path).superpixels, str(event.value), attended)

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n\n{notice}")
        with gr.Row():
            with gr.Column(min_width=320):
                photo = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], label="Photograph",
                    image_mode=None, buttons=[], height=SHOWN, alt_text="The photograph",
                    elem_classes=PICTURE,
                )  # fmt: skip
                expression = gr.Textbox(
                    label="Expression", placeholder="the man left of the umbrella", max_length=500
                )
                generate = gr.Checkbox(
                    label="Let the model answer by itself (it may find nothing)", value=False
                )
                budget = gr.Slider(
                    1, 2, value=2, step=1, label="Superpixels with a token of their own",
                    info="The others share one token, the rest.", visible=selects, buttons=[],
                )  # fmt: skip
                button = gr.Button("Segment", variant="primary")
            with gr.Column(min_width=320):
                mask = gr.Image(
                    label="Answer", interactive=False, buttons=["download", "fullscreen"], height=SHOWN,
                    alt_text="The photograph with the answer's mask in blue", elem_classes=PICTURE,
                )  # fmt: skip
                about = gr.Markdown()
        with gr.Row():
            with gr.Column(min_width=320):
                superpixels = gr.AnnotatedImage(
                    label="Superpixels: what the language model reads", height=SHOWN
                )
                one = gr.Markdown()
            with gr.Column(min_width=320, visible=selects):
                attention = gr.Image(
                    label="Attention: the more orange, the more attended", interactive=False,
                    buttons=["fullscreen"], height=SHOWN,
                    alt_text="The photograph in grey; attended superpixels are orange, as in the table",
                    elem_classes=PICTURE,
                )  # fmt: skip
                about_attention = gr.Markdown()
        attended = gr.State()
        if examples:
            gr.Examples([list(row) for row in examples], [photo, expression])
        private: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_id": MODEL,
            "concurrency_limit": 1,
        }
        answer = [mask, about, attention, about_attention, attended]
        photo.change(look, photo, [superpixels, one, budget, *answer], **private)
        question = [photo, expression, generate, budget]
        for event in (button.click, expression.submit):
            event(ask, question, answer, **private)
        budget.input(ask_again, question, answer, trigger_mode="always_last", **private)
        superpixels.select(click, [photo, attended], one, **private)
    return page.queue(max_size=WAITING)


def serve(
    page: Any, *, port: int, host: str = HOST, open_browser: bool = False, wait: bool = True
) -> str:
    """Serve `page`, on this machine alone unless `host` is another; returns its address at once unless `wait`.

    Raises ConfigError if the port is taken.
    """
    import gradio as gr

    require_port(host, port)  # Gradio's own error names its variables and functions
    log.info(f"page: http://{host}:{port}/ (Ctrl-C ends it)")
    theme = gr.themes.Default(primary_hue="blue").set(**COLOURS)
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, max_file_size=LARGEST_FILE,
        allowed_paths=[], inbrowser=open_browser, prevent_thread_lock=not wait, quiet=True,
        footer_links=[], enable_monitoring=False, ssr_mode=False,
        theme=theme, css=CSS,
    )  # fmt: skip
    return str(address)


@dataclass(frozen=True, kw_only=True)
class DemoRequest(ModelRequest):
    """Options of `svp demo`: a model, and where its page is served.

    host  another address than this machine's own only as the program of a Space says, see `space`
    """

    host: str = HOST
    port: int = 7860
    open_browser: bool = False


def demo_command(request: DemoRequest) -> None:
    """Serve the page until interrupted.

    Raises ConfigError (tiny models without --size tiny, a port that is taken), and as `load`.
    """
    require_demo(request.host, request.port)
    segmenter = request.open()
    segmenter.require_real("the photographs of visitors")
    with tempfile.TemporaryDirectory() as folder:
        shown = (TOY, scenes(Path(folder))) if segmenter.size == "tiny" else ()
        page = build_page(segmenter, *shown)
        serve(page, port=request.port, host=request.host, open_browser=request.open_browser)


def scenes(folder: Path) -> list[tuple[str, str]]:
    """Held-out generated scenes, written to `folder`, with an expression each."""
    made = []
    for index in range(EXAMPLES):
        scene = make_scene(SEED, index, "testA")
        path = folder / f"scene-{index}.png"
        Image.fromarray(scene.image).save(path)
        made.append((str(path), scene.phrases[0].text))
    return made
