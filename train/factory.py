"""Build the model that a recipe describes; a frozen [SEG] is refused."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..model.conversion.convert import open_ris_checkpoint
from ..model.conversion.fill_model import build_imported
from ..model.language.load import build_lm, fill_lm, load_lm, random_lm, read_config
from ..model.language.words import add_words, copy_word
from ..model.mask_head import MaskHead
from ..model.pretrained.config import ProjectorSpec, language_config, read_model_file
from ..model.pretrained.peft_adapters import plain_state
from ..model.pretrained.pretrained import load_pretrained
from ..model.projectors import Projector, build_projector
from ..model.ris import RisModel
from ..model.trainable import require_trained_seg
from ..pipeline.cache.plan import Plan
from ..pipeline.display import counted
from ..pipeline.errors import ConfigError, MissingError
from ..pipeline.records import LocalPaths
from ..pipeline.sam.build import build_sam
from ..pipeline.sam.load import load_sam
from ..pipeline.weights.fill_module import fill
from ..pipeline.weights.load import load_state_dict
from .data.cache_fit import llama_shape, require_cache
from .data.encoder_identity import features_of, require_same_features
from .data.keyed_rng import key_of
from .data.prompts import REJ
from .data.sam_identity import (
    replace_decoder,
    require_embedding,
    require_same_sam,
    sam_of,
)
from .data.shipped_language import TINY, TINY_TEXT, shipped_config, shipped_folder, shipped_words
from .data.tokenizer import Vocabulary, load_vocabulary
from .options import Places
from .recipe import TrainRecipe
from .warm_start import copy_layers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PAPER_GRID = (24, 24)  # of 336 px, patches of 14
ADDED = ("counted", "token_answers")  # options that add a part to a projector and change no other


@dataclass(frozen=True)
class Assembled:
    """A model on the CPU, frozen parts in the recipe's dtype, and its words.

    teacher   the pretrained projector that the model's imitates before it trains, if any
    new_rows  ids of the special tokens the dialogues use
    """

    model: RisModel
    vocab: Vocabulary
    teacher: Projector | None = None

    @property
    def new_rows(self) -> tuple[int, ...]:
        """Ids of the special tokens the dialogues use."""
        vocab = self.vocab
        rejection = () if vocab.rej is None else (vocab.rej,)
        return (vocab.im_start, vocab.im_end, vocab.seg, *rejection)


def assemble(recipe: TrainRecipe, plan: Plan, places: Places, *, decoder: bool = True) -> Assembled:
    """The model and vocabulary of a recipe on caches with this plan.

    decoder  False: its masks will not be decoded, so that the cache needs no SAM embeddings

    Raises PlanMismatchError (a cache of another encoder), ConfigError (inputs the cache lacks, a
    [SEG] that can never be learned), MissingError and WeightsError (weights).
    """
    require_cache(recipe, plan, decoder=decoder)
    config, init = recipe.model, recipe.model.init
    dtype = getattr(torch, config.dtype)
    fresh = init.kind == "none"
    teacher = None
    if init.kind == "shipped":
        model, vocab, teacher = _shipped(recipe, plan, dtype)
    elif fresh:
        model, vocab = _from_parts(recipe, plan, places, dtype)
    elif init.kind == "svp":
        assert places.init is not None, "settings place what a recipe names by digest"
        model, vocab = _from_export(recipe, plan, places.init, dtype)
    else:
        assert places.init is not None, "settings place what a recipe names by digest"
        imported = open_ris_checkpoint(places.init)
        projector = _projector(recipe, plan, imported.shape.hidden)
        model = build_imported(imported, projector, dtype=dtype, mask_state=config.mask_state)
        vocab = load_vocabulary(places.init, imported.layout)
    if not fresh and config.sam_decoder.kind != "none":
        replace_decoder(model, _mask_head(recipe, plan, places))
    if (rows := model.lm.get_input_embeddings().num_embeddings) < vocab.size:
        raise ConfigError(
            f"the vocabulary of the model has {counted(rows, 'row')}, its tokenizer {vocab.size}"
        )
    parts = recipe.stages[0].trains + (("lora",) if recipe.stages[0].lora else ())
    if recipe.data.task == "segment":
        require_trained_seg(model, parts, vocab.seg, fresh=fresh)
    if config.system_text is not None:
        vocab = vocab.with_system(config.system_text)
    if config.rejection and vocab.rej is None:
        vocab = vocab.with_rejection()
        assert vocab.rej is not None
        # As likely as [SEG] at first, so that only what tells the two apart is to be learned.
        copy_word(model.lm, vocab.seg, vocab.rej)
        require_trained_seg(model, parts, vocab.rej, fresh=True, token=REJ)
    require_embedding(model, plan, decoder=decoder)
    model.mask_prompt = config.mask_prompt
    model.learns_clicks = recipe.loss.click > 0
    model.requires_grad_(False)
    return Assembled(model, vocab, teacher)


def outline(recipe: TrainRecipe, plan: Plan | None, config: "PreTrainedConfig") -> RisModel:
    """The model on the meta device: names and sizes without weights or memory.

    config  of the language model
    Without a plan the sizes are those of the paper's cache: 1024 channels, SAM ViT-H.
    """
    with torch.device("meta"):
        lm = build_lm(config).to(getattr(torch, recipe.model.dtype))
        projector = build_projector(
            recipe.model.projector.name, in_dim=plan.channels if plan else 1024,
            llm_dim=config.hidden_size, grid=plan.grid if plan else PAPER_GRID, **_options(recipe),
        )  # fmt: skip
        sam = build_sam(plan.recipe.superpixels.model if plan else "vit_h")
        return RisModel(lm, projector, MaskHead(sam.prompt_encoder, sam.mask_decoder))


def _shipped(
    recipe: TrainRecipe, plan: Plan, dtype: torch.dtype
) -> tuple[RisModel, Vocabulary, Projector | None]:
    """The tiny language model, with the projector layers of a warm start or as a teacher."""
    with shipped_folder(TINY) as folder:
        weights = folder / "ris.safetensors"
        if not weights.is_file():
            raise MissingError(f"{TINY}/ris.safetensors is not in this package: reinstall svp")
        state = {name: value.float() for name, value in load_state_dict(weights).items()}
        vocab, config = load_vocabulary(folder), read_config(folder)
    lm = random_lm(config)
    sam = build_sam("tiny")
    head = MaskHead(sam.prompt_encoder, sam.mask_decoder.train())
    model = RisModel(
        lm, _projector(recipe, plan, config.hidden_size), head, mask_state=recipe.model.mask_state
    )
    for part in ("lm", "to_prompt", "mask_head"):
        prefix = f"{part}."
        own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        fill(model.get_submodule(part), own, f"{TINY}: {part}")
    model.lm.to(dtype)
    own = {n.removeprefix("projector."): t for n, t in state.items() if n.startswith("projector.")}
    if not recipe.model.warm_projector:
        return model, vocab, None
    if not copy_layers(model.projector, own) and "projector" not in recipe.stages[0].trains:
        raise ConfigError("warm_projector: the projector must train in the first stage")
    teacher = build_projector(
        "mlp", in_dim=plan.channels, llm_dim=config.hidden_size, grid=plan.grid
    )
    fill(teacher, own, f"{TINY}: projector")
    return model, vocab, teacher


def _from_export(
    recipe: TrainRecipe, plan: Plan, folder: Path, dtype: torch.dtype
) -> tuple[RisModel, Vocabulary]:
    """A model of `svp export` as initialisation; its adapters are merged first.

    Its projector is kept if the recipe names the same one with the same options; parts that the recipe
    adds to it are new.
    """
    about, found = read_model_file(folder), load_pretrained(folder)
    if recipe.model.sam_decoder.kind == "none" and about.preprocessing is not None:
        require_same_sam(sam_of(about.preprocessing.recipe), plan, f"the model {folder.name}")
    with torch.device("meta"):
        lm = build_lm(about.language.built()).to(dtype)
    fill_lm(lm, plain_state(found.lm, merge=True), "language model")
    spec = about.projector
    same = _is_kept(spec, recipe, plan)
    if same and about.preprocessing is not None:
        wanted = features_of(about.preprocessing.recipe, spec.name)
        require_same_features(wanted, plan, spec.name, f"the projector of {folder.name}")
    projector = _projector(recipe, plan, spec.llm_dim)
    if same:
        projector.load_state_dict(projector.state_dict() | found.projector.state_dict())
        projector.set_sspe(found.projector.add_sspe)
    state = recipe.model.mask_state
    model = RisModel(lm, projector, found.mask_head, mask_state=state)
    model.to_prompt.load_state_dict(found.to_prompt.state_dict())
    return model, load_vocabulary(folder)


def _is_kept(spec: ProjectorSpec, recipe: TrainRecipe, plan: Plan) -> bool:
    wanted = {**dict.fromkeys(ADDED, False), **_options(recipe)}
    own = {**dict.fromkeys(ADDED, False), **spec.options}
    added = {name for name in ADDED if wanted[name] and not own[name]}
    return (spec.name, spec.in_dim, spec.grid, own | dict.fromkeys(added, True)) == (
        recipe.model.projector.name, plan.channels, plan.grid, wanted
    )  # fmt: skip


def new_projector(recipe: TrainRecipe, plan: Plan, places: Places) -> str:
    """Warning that the projector of an export is not used for the training that starts from it, or ""."""
    if recipe.model.init.kind != "svp" or places.init is None:
        return ""
    spec = read_model_file(places.init).projector
    if _is_kept(spec, recipe, plan):
        return ""
    note = f"note: projector {recipe.model.projector.name} starts from random values: "
    own = {"name": spec.name, "options": spec.options}
    if (spec.in_dim, spec.grid) != (plan.channels, plan.grid):
        return note + (
            f"that of {places.init.name} reads {counted(spec.in_dim, 'channel')} on grid {spec.grid}, cache "
            f"{plan.id[:12]} has {plan.channels} on {plan.grid}"
        )
    words = shlex.join(["--set", f"model.projector={json.dumps(own)}"])
    return f"{note}to train that of {places.init.name} instead, give {words}"


def _from_parts(
    recipe: TrainRecipe, plan: Plan, places: Places, dtype: torch.dtype
) -> tuple[RisModel, Vocabulary]:
    """A language model of its own; L-P projector random, mask decoder from SAM."""
    config = recipe.model
    if config.lm.kind == "random":
        vocab = shipped_words()
        shape = llama_shape(recipe, vocab.size)
        lm = random_lm(shape.config(), config.lm.seed).to(dtype)
    elif config.lm.kind == "shipped":
        with shipped_folder(TINY_TEXT) as folder:
            vocab, lm = load_vocabulary(folder), load_lm(folder).to(dtype)
    else:
        assert places.lm is not None
        vocab = load_vocabulary(places.lm)
        lm = load_lm(places.lm, dtype)
        add_words(lm, vocab.base if vocab.chat else vocab.size, vocab.size)
    projector = _projector(recipe, plan, lm.config.hidden_size)
    head = _mask_head(recipe, plan, places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of(recipe.seed, "to_prompt"))
        return RisModel(lm, projector, head, mask_state=config.mask_state), vocab


def language_of(recipe: TrainRecipe, places: Places) -> "PreTrainedConfig":
    """Of the language model: of its folder if that is there, the shipped one's, the recipe's."""
    folder = places.init or places.lm
    if folder is not None and (folder / "config.json").is_file():
        return language_config(folder)
    if recipe.model.init.kind == "shipped":
        return shipped_config()
    if recipe.model.lm.kind == "shipped":
        with shipped_folder(TINY_TEXT) as folder:
            return language_config(folder)
    random = recipe.model.lm.kind == "random"
    return llama_shape(recipe, shipped_words().size if random else None).config()


def _projector(recipe: TrainRecipe, plan: Plan, llm_dim: int) -> Projector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of(recipe.seed, "projector"))
        return build_projector(
            recipe.model.projector.name,
            in_dim=plan.channels,
            llm_dim=llm_dim,
            grid=plan.grid,
            **_options(recipe),
        )


def _options(recipe: TrainRecipe) -> dict[str, Any]:
    return dict(recipe.model.projector.options)


def _mask_head(recipe: TrainRecipe, plan: Plan, places: Places) -> MaskHead:
    """SAM's decoder of the type that made the cache's embeddings."""
    source = plan.recipe.superpixels.model_copy(update={"weights": recipe.model.sam_decoder})
    sam, _ = load_sam(source, LocalPaths(images=Path(), sam=places.sam_decoder))
    return MaskHead(sam.prompt_encoder, sam.mask_decoder.train())
