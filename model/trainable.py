"""Trainable parameters of a stage, and their summary table.

Every parameter belongs to exactly one part; a stage names parts. Source: the paper lists SVP,
embedding layer, LM head, L-P projector and RIS mask decoder, and LoRA in stage 2 only; GLaMM's
substring match (train_ft.py:266-272) is replaced by the modules themselves. A tied model has one
matrix for embedding and head; it is the part `embedding`, and `lm_head` is another name for it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ..pipeline.display import show
from ..pipeline.errors import ConfigError
from .language.trainable_tokens import fold_rows, train_rows

if TYPE_CHECKING:
    from .ris import RisModel

PARTS = ("projector", "embedding", "lm_head", "to_prompt", "mask_decoder", "lora", "lm", "prompt_encoder")  # fmt: skip
LABELS = {
    "projector": "projector",
    "embedding": "embedding layer",
    "lm_head": "LM head",
    "to_prompt": "L-P projector",
    "mask_decoder": "RIS mask decoder",
    "lora": "LoRA",
    "lm": "language model, the rest",
    "prompt_encoder": "SAM prompt encoder",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One part: numbers in it, how many of them train, dtypes of the trained (else of all)."""

    part: str
    parameters: int
    trainable: int
    dtype: str


@dataclass(frozen=True, slots=True)
class TrainableTable:
    """Rows in the order of `PARTS`; parts the model does not have are left out.

    projector  numbers in each piece of the projector: the paper's 52M may or may not count its MLP
    """

    rows: tuple[Row, ...]
    projector: dict[str, int]

    @property
    def trainable(self) -> int:
        """Numbers that train, all parts together."""
        return sum(row.trainable for row in self.rows)

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    def lines(self) -> list[str]:
        """A line per part, the sum, and the pieces of the projector."""
        table = [(LABELS[row.part], row.parameters, row.trainable, row.dtype) for row in self.rows]
        table.append(("sum", self.parameters, self.trainable, ""))
        head = f"{'part':<26}{'parameters':>15}{'trainable':>15}  dtype"
        body = (f"{name:<26}{size:>15,}{train:>15,}  {kind}" for name, size, train, kind in table)
        pieces = ", ".join(f"{name} {size:,}" for name, size in self.projector.items())
        return [head, *(line.rstrip() for line in body), f"projector: {pieces}"]

    def to_json(self) -> dict[str, object]:
        """{part: [parameters, trainable, dtype]}."""
        return {row.part: [row.parameters, row.trainable, row.dtype] for row in self.rows}


def set_trainable(
    model: "RisModel",
    parts: Collection[str],
    *,
    new_rows: Collection[int] = (),
    single: bool = True,
) -> TrainableTable:
    """Make exactly `parts` of `model` trainable, and float32; dtypes of the rest are left alone.

    new_rows  ids of added tokens: of embedding and head, only these rows train
    single    False: what trains keeps its dtype, for who splits the model first (`in_single`)

    Raises ConfigError: an unknown part, one the model does not have, or `new_rows` where embedding
    and head do not train.
    """
    _check_parts(parts, new_rows)
    fold_rows(model.lm)
    owned = parameters_by_part(model)
    parts = _owners(model, parts)
    if lacking := [part for part in parts if part not in owned]:
        raise ConfigError(f"train={show(lacking)}: the model has no such part (LoRA not added?)")
    whole = parts - ({"embedding", "lm_head"} if new_rows else set())
    for part, parameters in owned.items():
        for parameter in parameters:
            parameter.requires_grad_(part in whole)
            if single and part in whole:
                in_single(parameter)
    if new_rows:
        train_rows(model.lm, sorted(new_rows))
    return trainable_table(model)


def in_single(parameter: nn.Parameter) -> None:
    """Make the values float32, in place: a step of 3e-4 is lost in bfloat16's 8 bits."""
    parameter.data = parameter.data.float()


def trainable_table(model: "RisModel") -> TrainableTable:
    """The table of `model` as it is now; works on the meta device."""
    owned = parameters_by_part(model)
    pieces = model.projector.named_children()
    return TrainableTable(
        tuple(_row(part, owned[part]) for part in PARTS if part in owned),
        {name: sum(p.numel() for p in piece.parameters()) for name, piece in pieces},
    )


def parameters_by_part(model: "RisModel") -> dict[str, list[nn.Parameter]]:
    """Every parameter of `model`, once, under its part."""
    owned: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        owned.setdefault(_part_of(name), []).append(parameter)
    return owned


def require_trained_seg(
    model: "RisModel", parts: Collection[str], seg: int, *, fresh: bool, token: str = "[SEG]"
) -> None:
    """Refuse a stage in which the [SEG] token, or another, can never mean anything.

    seg    id of `token`
    fresh  its rows were added to the vocabulary just now, not trained in a checkpoint

    Raises ConfigError if a matrix with an untrained (fresh or zero) row of it stays frozen.
    """
    owned = parameters_by_part(model)
    parts = _owners(model, parts)
    for part in sorted(_owners(model, ("embedding", "lm_head"))):
        weight = max(owned[part], key=lambda parameter: parameter.numel())
        untrained = fresh or not float(weight[seg].detach().float().norm()) > 0
        if untrained and part not in parts:
            raise ConfigError(
                f"train={show(sorted(parts))}: the {LABELS[part]} is frozen and its {token} row "
                f"{seg} was never trained, so it means nothing. Train {part}, or start "
                "from a checkpoint that knows it (one of this package; [SEG]: GLaMM, LISA)"
            )


def _owners(model: "RisModel", parts: Collection[str]) -> set[str]:
    """The parts under which `parameters_by_part` has what is named."""
    tied = model.lm.config.tie_word_embeddings
    return {"embedding" if tied and part == "lm_head" else part for part in parts}


def _check_parts(parts: Collection[str], new_rows: Collection[int]) -> None:
    if unknown := set(parts) - set(PARTS):
        raise ConfigError(f"train={show(sorted(unknown))}: allowed are {', '.join(PARTS)}")
    if new_rows and not {"embedding", "lm_head"} <= set(parts):
        raise ConfigError("new rows: embedding and head must be among the trained parts")


def _part_of(name: str) -> str:
    if not name.startswith(("lm.", "mask_head.")):
        return name.split(".", 1)[0]
    if name.startswith("mask_head."):
        return "mask_decoder" if name.startswith("mask_head.decoder.") else "prompt_encoder"
    if ".lora_" in name:
        return "lora"
    if name.startswith("lm.lm_head."):
        return "lm_head"
    return "embedding" if name.startswith("lm.model.embed_tokens.") else "lm"


def _row(part: str, parameters: list[nn.Parameter]) -> Row:
    trained = [p for p in parameters if p.requires_grad]
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in trained or parameters})
    numbers = sum(p.numel() for p in parameters)
    return Row(part, numbers, sum(p.numel() for p in trained), ", ".join(kinds))
