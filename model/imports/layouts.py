"""The two published layouts: how they name SAM and which tokens they added to LLaMA's vocabulary.

Source: mbzuai-oryx/groundingLMM train_ft.py:134-153, dvlab-research/LISA train_ds.py: the added
tokens are the last rows of the embedding and of the head, in this order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ...pipeline.errors import ConfigError, WeightsError
from ...pipeline.text import show

LLAMA_VOCAB = 32_000  # entries of LLaMA's own tokenizer
SEG = "[SEG]"


@dataclass(frozen=True, slots=True)
class Layout:
    """One family of checkpoints.

    sam     what its SAM is called, the sign by which the layout is recognised
    tokens  added tokens; the first has id `LLAMA_VOCAB`
    """

    name: str
    sam: str
    tokens: tuple[str, ...]

    def ids(self, base: int = LLAMA_VOCAB) -> dict[str, int]:
        """Row of every added token."""
        return {token: base + i for i, token in enumerate(self.tokens)}

    def check_vocabulary(self, rows: int, base: int) -> None:
        """`WeightsError` unless the embedding has a row per token of this layout."""
        if rows != base + len(self.tokens):
            raise WeightsError(
                f"vocabulary of {rows:,} rows, layout {self.name} has {base + len(self.tokens):,} "
                f"({base:,} of LLaMA and {', '.join(self.tokens)}): ids would not line up. "
                f"Give the layout of this checkpoint: {', '.join(LAYOUTS)}"
            )


LAYOUTS: dict[str, Layout] = {
    "glamm": Layout(
        "glamm",
        "grounding_encoder",
        ("<im_start>", "<im_end>", "<bbox>", "<point>", SEG, "<p>", "</p>"),
    ),
    "lisa": Layout("lisa", "visual_model", ("<im_patch>", "<im_start>", "<im_end>", SEG)),
}


def choose_layout(names: Iterable[str], layout: str) -> Layout:
    """The `Layout` called `layout`, or with "auto" the one whose SAM the tensors name.

    Raises ConfigError (no such layout) or WeightsError (neither or both recognised).
    """
    if layout != "auto":
        if layout not in LAYOUTS:
            raise ConfigError(f"layout={show(layout)}: allowed are auto, {', '.join(LAYOUTS)}")
        return LAYOUTS[layout]
    parts = {part for name in names for part in name.split(".")}
    found = [known for known in LAYOUTS.values() if known.sam in parts]
    if len(found) != 1:
        signs = " or ".join(f"{known.sam} ({known.name})" for known in LAYOUTS.values())
        raise WeightsError(
            f"no known layout: tensors of {len(found)} layouts found, looked for {signs}. Give a "
            "GLaMM or LISA checkpoint, or name its layout"
        )
    return found[0]
