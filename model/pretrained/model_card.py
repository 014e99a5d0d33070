"""Model card of an exported model: description, training data, metrics, limitations."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from ...pipeline.display import escape
from ...pipeline.precompute.toy_guard import toy_models
from .config import ModelFile

_TEMPLATE = """\
---
{header}---

# {name}

Referring image segmentation: a photograph and an expression in, a mask out. A LLaMA language model
({layers} layers of width {hidden}) reads visual tokens from the `{projector}` projector and answers
with [SEG]; its state before [SEG] prompts SAM's mask decoder.

## Use

```python
{use}
```

{needs}Weights: `model.safetensors` is the language model{adapter}, `svp.safetensors` projector and mask head.
The frozen image encoders (SAM's and the projector's) are not included: they are published by their authors.

transformers loads the language model without `svp`:
`AutoModelForCausalLM.from_pretrained({folder})`{peft}.

## Training

{training}

## Evaluation

{metrics}

Numbers hold for the protocol they name; others are not comparable.

## Limits

{limits}

The weights derive from a language model and a SAM whose licences apply beside the one above.
"""
_ASK = """\
import svp

seg = svp.load({folder}{toy})  # where this folder lies
answer = seg("photo.jpg", "the red cup")
print(answer.mask.shape, answer.score)  # mask (H,W) bool, as viewers show the photograph"""
_LOAD = """\
import svp

model = svp.load_pretrained({folder})  # where this folder lies"""
_COMMAND = """\
The same from a shell: `svp predict photo.jpg "the red cup" --checkpoint {folder}{toy}`. Photographs
go through SAM `{sam}` and the encoder `{encoder}` at {size} px (view `{view}`), whose weights `svp`
looks for by their digests: `svp fetch`, `--sam-weights`, `--encoder-weights`.

"""
_LIMITS = (
    "English expressions of the kind it was trained on; one mask per expression. It answers with a "
    "mask even if nothing fits the expression. Do not use it where a wrong mask does harm."
)


@dataclass(frozen=True, slots=True)
class Card:
    """Content of a model card; texts may be untrusted, markup in them is escaped.

    training, metrics  name -> value, one line each
    scores             data set and split -> metric -> percent, for the hub's model index
    """

    name: str
    licence: str = "other"
    training: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    limits: str = _LIMITS
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def header(self) -> str:
        """Metadata of the Hugging Face hub, YAML."""
        licence = re.sub(r"[^A-Za-z0-9.-]", "", self.licence) or "other"
        known: dict[str, object] = {"library_name": "svp", "license": licence}
        if licence == "other":
            known["license_name"] = "see-limits"
        known |= {
            "pipeline_tag": "image-segmentation",
            "tags": ["referring-image-segmentation"],
        }
        results = [
            {
                "task": {"type": "image-segmentation", "name": "Referring image segmentation"},
                "dataset": {"name": _plain(name), "type": _plain(name.partition(" ")[0])},
                "metrics": [{"type": metric, "value": value} for metric, value in values.items()],
            }
            for name, values in self.scores.items()
        ]
        if results:
            known["model-index"] = [{"name": _plain(self.name), "results": results}]
        text: str = yaml.safe_dump(known, sort_keys=False, allow_unicode=True)
        return text

    def text(self, model: ModelFile, folder: str = "path/to/this/folder") -> str:
        """README.md; `folder` is where its *Use* looks for the model."""
        needs, toy = "", False
        if model.preprocessing:
            recipe = model.preprocessing.recipe
            toy = bool(toy_models(recipe))
            needs = _COMMAND.format(
                toy=" --size tiny" if toy else "", folder=_plain(shlex.quote(folder)), sam=recipe.superpixels.model,
                encoder=recipe.features.encoder, size=recipe.features.size,
                view=recipe.features.view,
            )  # fmt: skip
        adapter = ", without the LoRA in `adapter/`" if model.adapter else ""
        peft = f", and peft its LoRA: `PeftModel.from_pretrained(lm, {folder + '/adapter'!a})`"
        return _TEMPLATE.format(
            name=_plain(self.name),
            header=self.header(),
            layers=model.language.layers,
            hidden=model.language.hidden,
            projector=_plain(model.projector.name),
            adapter=adapter,
            folder=ascii(folder),
            peft=peft if model.adapter else "",
            use=(_ASK if model.preprocessing else _LOAD).format(
                folder=ascii(folder),
                toy=', size="tiny"' if toy else "",  # of use on generated scenes only: said by name
            ),
            needs=needs,
            training=_list(self.training, "Not recorded."),
            metrics=_list(self.metrics, "Not evaluated."),
            limits=_plain(self.limits),
        )


def _list(items: Mapping[str, str], empty: str) -> str:
    return "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in items.items()) or empty


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", escape(text))
