"""Where weight files are looked for. Nothing is downloaded here: `svp fetch` does that."""

import os
from pathlib import Path

from ..errors import MissingError
from ..paths import expand, user_cache

WEIGHT_FILES: dict[str, tuple[str, ...]] = {
    "vit_b": ("sam_vit_b_01ec64.pth", "sam_vit_b.safetensors"),
    "vit_l": ("sam_vit_l_0b3195.pth", "sam_vit_l.safetensors"),
    "vit_h": ("sam_vit_h_4b8939.pth", "sam_vit_h.safetensors"),
    "vit_t": ("mobile_sam.pt", "mobile_sam.safetensors"),
    "dinov2-small": ("dinov2-with-registers-small", "dinov2_vits14_reg4_pretrain.pth"),
    "dinov2-base": ("dinov2-with-registers-base", "dinov2_vitb14_reg4_pretrain.pth"),
    "dinov2-large": ("dinov2-with-registers-large", "dinov2_vitl14_reg4_pretrain.pth"),
    "clip-large-336": ("clip-vit-large-patch14-336",),
    "clip-large": ("clip-vit-large-patch14",),
}


FETCH = {"clip-large": "hf download openai/clip-vit-large-patch14"}  # what `svp fetch` has not


def weight_folders() -> list[Path]:
    """Folders in the order they are searched: $SVP_WEIGHTS, ./weights, the user's cache."""
    given = os.environ.get("SVP_WEIGHTS")
    cache = user_cache()
    return [
        *([expand(given)] if given else []),
        Path("weights"),
        *([cache / "svp" / "weights"] if cache else []),
    ]


def search_weights(model: str) -> Path | None:
    """The first file or folder that holds the weights of `model`, or None."""
    places = (folder / name for folder in weight_folders() for name in WEIGHT_FILES.get(model, ()))
    return next((place for place in places if place.exists()), None)


def find_weights(model: str, flag: str) -> Path:
    """Like `search_weights`, but a MissingError says where it looked and what to do."""
    found = search_weights(model)
    if found is None:
        names = " or ".join(WEIGHT_FILES.get(model, ("(no known file name)",)))
        folders = ", ".join(str(folder) for folder in weight_folders())
        raise MissingError(
            f"weights of {model} not found: looked for {names} in {folders}. "
            f"Get them with `{FETCH.get(model, f'svp fetch {model}')}`, give a file with {flag} PATH, "
            f"or try the machinery with {flag} random"
        )
    return found
