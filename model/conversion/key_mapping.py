"""Key mapping from the published checkpoint layouts (GLaMM, LISA) to our modules.

Rules are tried in order and the first match wins; parts with inner names like LLaMA's (SAM's
decoder has `layers.0.self_attn.q_proj`, too) come first. What precedes the matched end is free, so
`module.`, `base_model.model.` and unknown wrappers do not matter; two names that end alike are an
error of the caller's. Invariant: a tensor is kept, dropped by a named rule, or unknown.

A layout says how SAM is named and which tokens were added to LLaMA's vocabulary: the last rows of
embedding and head, in order (mbzuai-oryx/groundingLMM train_ft.py:134-153, dvlab-research/LISA
train_ds.py).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError, WeightsError

LM, TO_PROMPT, LORA = "lm", "to_prompt", "lora"
DECODER, PROMPT_ENCODER = "mask_decoder", "prompt_encoder"
IMAGE_ENCODER, MM_PROJECTOR = "sam_image_encoder", "mm_projector"
OPTIONAL = {  # groups a caller has to ask for, and why they are dropped otherwise
    IMAGE_ENCODER: "SAM's image encoder: frozen, its output is in the cache",
    MM_PROJECTOR: "CLIP's projector: this model has another one",
}

_SAM = r"(?:grounding_encoder|visual_model)\."
_LINEAR = r"(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj"
_NORM = r"(?:input|post_attention)_layernorm"


@dataclass(frozen=True, slots=True)
class Rule:
    """`pattern` matches the end of a name; its groups, joined, are the new name in `group`.

    With `group` empty the tensor is dropped and `why` says so in the report.
    """

    pattern: re.Pattern[str]
    group: str = ""
    why: str = ""


def _keep(group: str, pattern: str) -> Rule:
    return Rule(re.compile(rf"(?:^|\.){pattern}$"), group)


def _drop(why: str, pattern: str) -> Rule:
    return Rule(re.compile(rf"(?:^|\.){pattern}$"), why=why)


RULES: tuple[Rule, ...] = (
    _drop("region encoder: not part of referring segmentation", r"region_encoder\..+"),
    _drop("vision tower: comes from its own file", r"vision_tower\..+"),
    _keep(DECODER, _SAM + r"mask_decoder\.(.+)"),
    _keep(PROMPT_ENCODER, _SAM + r"prompt_encoder\.(.+)"),
    _keep(IMAGE_ENCODER, _SAM + r"image_encoder\.(.+)"),
    _keep(TO_PROMPT, r"text_hidden_fcs\.0\.([02]\.(?:weight|bias))"),
    _keep(MM_PROJECTOR, r"mm_projector\.((?:[02]\.)?(?:weight|bias))"),
    _drop("rotary inv_freq: computed", r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
    # peft calls the matrices lora_A.<adapter>.weight, in its adapter files lora_A.weight.
    _keep(LORA, rf"(model\.layers\.\d+\.{_LINEAR}\.lora_[AB])(?:\.\w+)?\.weight"),
    _keep(LM, rf"(model\.layers\.\d+\.{_LINEAR})(?:\.base_layer)?(\.weight)"),
    _keep(LM, rf"(model\.layers\.\d+\.{_NORM}\.weight)"),
    _keep(LM, r"(model\.(?:embed_tokens|norm)\.weight)"),
    _keep(LM, r"(lm_head\.weight)"),
)


def find(name: str) -> tuple[Rule, str] | None:
    """The rule for a tensor and its new name (empty if dropped), or None if no rule knows it."""
    for rule in RULES:
        if match := rule.pattern.search(name):
            return rule, "".join(match.groups())
    return None


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
                f"vocabulary of {counted(rows, 'row')}, layout {self.name} has "
                f"{base + len(self.tokens):,} "
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
            f"no known layout: tensors of {counted(len(found), 'layout')} found, looked for "
            f"{signs}. Give a GLaMM or LISA checkpoint, or name its layout"
        )
    return found[0]
