"""Save a model as a folder and load it back.

    config.json          the language model's, of transformers
    model.safetensors    its weights; LoRA merged, or left out
    adapter/             LoRA in peft's form, if kept separate
    tokenizer files      as the tokenizer itself writes them
    svp.json             what to build (config.py)
    svp.safetensors      projector, L-P projector and mask head
    README.md            the model card

To transformers it is a folder of the language model. The folder gets its name when all its files are on the disk; an existing one is never touched.
"""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ... import __version__
from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.io.atomic import refusal, sync_folder
from ...pipeline.io.paths import expand
from ...pipeline.recipe import Recipe
from ...pipeline.superpixels.budget.selector import Budget
from ...pipeline.weights.fill_module import fill
from ...pipeline.weights.load import BESIDE, load_state_dict
from ..language.adapters import add_lora
from ..language.load import build_lm, fill_lm
from ..language.trainable_tokens import fold_rows
from ..projectors import build_projector
from ..ris import RisModel
from .config import (
    CONFIG,
    MODEL_TYPE,
    SCHEMA,
    MaskHeadSpec,
    ModelFile,
    ProjectorSpec,
    language_of,
    read_model_file,
)
from .model_card import Card
from .peft_adapters import adapted, adapter_state, inner_names, lora_of, peft_config, plain_state
from .preprocessing import Preprocessing

LM, HEADS = "model.safetensors", BESIDE[0]
ADAPTER, ADAPTER_CONFIG = BESIDE[1], "adapter/adapter_config.json"
PARTS = ("projector", "to_prompt", "mask_head")
Adapter = Literal["merged", "separate"]


def save_pretrained(
    model: RisModel,
    folder: Path,
    *,
    projector: ProjectorSpec,
    tokenizer: Any,
    card: Card,
    adapter: Adapter = "merged",
    recipe: Recipe | None = None,
    budget: Budget | None = None,
    system_text: str | None = None,
) -> ModelFile:
    """Write `model` to the new `folder`; rows trained beside their matrices are folded first.

    projector  how the model's projector was made
    tokenizer  of transformers, or None to leave it out
    adapter    LoRA "merged" into its linears, or "separate" in peft's form
    recipe     of the caches it was trained on: how photographs are to be shown to it
    budget     of superpixels that it was trained at; None: all
    system_text  of its dialogues, where it is not the usual one

    The language model is stored in the dtype of its frozen weights, the rest in float32. Raises
    ConfigError (folder exists, no LoRA to keep separate) or CacheError (disk).
    """
    if folder.exists():
        raise ConfigError(f"{show(str(folder), 200)}: exists already; give a new folder")
    fold_rows(model.lm)
    about = _describe(model, projector, adapter, recipe, budget, system_text)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        name = folder.name if folder.is_absolute() else str(folder)
        _write(partial, model, about, card, tokenizer, name)
        partial.rename(folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        raise refusal(error, folder) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return about


def load_pretrained(folder: str | Path) -> RisModel:
    """The model `save_pretrained` wrote, on the CPU, in evaluation mode, nothing trainable.

    Raises MissingError, or WeightsError (config or tensors are not what they should be).
    """
    folder = expand(folder)
    about = read_model_file(folder)
    state = load_state_dict(folder / HEADS)
    with torch.device("meta"):
        lm = build_lm(about.language.built())
        lm.to(getattr(torch, about.language.dtype))
    fill_lm(lm, load_state_dict(folder / LM), LM)
    spec = about.projector
    projector = build_projector(
        spec.name, in_dim=spec.in_dim, llm_dim=spec.llm_dim, grid=spec.grid, **spec.options
    )
    projector.set_sspe(about.add_sspe)
    model = RisModel(lm, projector, about.mask_head.build(), mask_state=about.mask_state)
    model.mask_prompt = about.mask_prompt
    for name in PARTS:
        fill(model.get_submodule(name), _part(state, name), f"{HEADS}: {name}")
    if about.adapter:
        _add_adapter(lm, about, folder)
    return model.eval().requires_grad_(False)


def _describe(
    model: RisModel,
    projector: ProjectorSpec,
    adapter: Adapter,
    recipe: Recipe | None,
    budget: Budget | None,
    system_text: str | None,
) -> ModelFile:
    dtype = str(model.lm.model.norm.weight.dtype).removeprefix("torch.")
    return ModelFile(
        schema_version=SCHEMA,
        model_type=MODEL_TYPE,
        svp_version=__version__,
        language=language_of(model.lm, dtype),
        projector=projector,
        mask_head=MaskHeadSpec.of(model.mask_head),
        mask_state=model.mask_state,
        mask_prompt=model.mask_prompt,
        add_sspe=model.projector.add_sspe,
        adapter=lora_of(model.lm) if adapter == "separate" else None,
        preprocessing=Preprocessing.of(recipe) if recipe else None,
        budget=None if budget is None or budget.auto else budget,
        system_text=system_text,
    )


def _write(
    folder: Path, model: RisModel, about: ModelFile, card: Card, tokenizer: Any, name: str
) -> None:
    dtype = getattr(torch, about.language.dtype)
    lm = plain_state(model.lm, merge=about.adapter is None)
    _save(folder / LM, {name: tensor.to(dtype) for name, tensor in lm.items()})
    heads = {f"{p}.{n}": t for p in PARTS for n, t in model.get_submodule(p).state_dict().items()}
    _save(folder / HEADS, heads)
    config = copy.deepcopy(model.lm.config)
    config.architectures, config.dtype = [type(model.lm).__name__], dtype
    config.save_pretrained(folder)
    if about.adapter:
        (folder / ADAPTER).parent.mkdir()
        _save(folder / ADAPTER, adapter_state(model.lm))
        _text(folder / ADAPTER_CONFIG, peft_config(about.adapter))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    card_file = folder / "README.md"
    card_file.write_text(card.text(about, name), "utf-8")
    _text(folder / CONFIG, about.model_dump(mode="json"))
    readable = card_file.stat().st_mode & 0o777  # 0666 less the umask; safetensors writes 0600
    for path in (path for path in folder.rglob("*") if path.is_file()):
        path.chmod(readable)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    for below in (*folder.glob("*/"), folder):
        sync_folder(below)


def _save(path: Path, state: dict[str, Tensor]) -> None:
    # "format" is what transformers and peft ask of a safetensors file.
    save_file({n: t.contiguous() for n, t in state.items()}, path, metadata={"format": "pt"})


def _text(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")


def _part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _add_adapter(lm: Any, about: ModelFile, folder: Path) -> None:
    assert about.adapter is not None
    add_lora(lm, about.adapter.lora())
    found = inner_names(load_state_dict(folder / ADAPTER))
    for name, module in adapted(lm).items():
        for part in ("lora_A", "lora_B"):
            inner = f"{name}.{part}.default.weight"
            own = {"weight": found.pop(inner)} if inner in found else {}
            fill(getattr(module, part)["default"], own, f"{ADAPTER}: {name}.{part}")
