"""The model card: what the model is, what it was trained on, how well it does, what it cannot do."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...pipeline.text import escape
from .modelfile import ModelFile

_TEMPLATE = """\
---
library_name: svp
license: {licence}
pipeline_tag: image-segmentation
tags: [referring-image-segmentation]
---

# {name}

Referring image segmentation: a photograph and an expression in, a mask out. A LLaMA language model
({layers} layers of width {hidden}) reads visual tokens from the `{projector}` projector and answers
with [SEG]; its state before [SEG] prompts SAM's mask decoder.

## Use

```python
from pathlib import Path
from svp.model.export import load_pretrained
model = load_pretrained(Path("path/to/this/folder"))
```

Weights: `model.safetensors`{adapter}. The frozen image encoders (SAM's and the projector's) are not
included: they are published by their authors.

## Training

{training}

## Evaluation

{metrics}

Numbers hold for the protocol they name; others are not comparable.

## Limits

{limits}

The weights derive from a language model and a SAM whose licences apply beside the one above.
"""
_LIMITS = (
    "English expressions of the kind it was trained on; one mask per expression. It answers with a "
    "mask even if nothing fits the expression. Do not use it where a wrong mask does harm."
)


@dataclass(frozen=True, slots=True)
class Card:
    """What the caller knows about the model; texts may be untrusted, markup in them is escaped.

    training, metrics  name -> value, one line each
    """

    name: str
    licence: str = "other"
    training: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    limits: str = _LIMITS

    def text(self, model: ModelFile) -> str:
        """README.md."""
        adapter = " and `adapter_model.safetensors` (LoRA, not merged)" if model.adapter else ""
        return _TEMPLATE.format(
            name=_plain(self.name),
            licence=re.sub(r"[^A-Za-z0-9.-]", "", self.licence) or "other",
            layers=model.language.layers,
            hidden=model.language.hidden,
            projector=_plain(model.projector.name),
            adapter=adapter,
            training=_list(self.training, "Not recorded."),
            metrics=_list(self.metrics, "Not evaluated."),
            limits=_plain(self.limits),
        )


def _list(items: Mapping[str, str], empty: str) -> str:
    return "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in items.items()) or empty


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", escape(text))
