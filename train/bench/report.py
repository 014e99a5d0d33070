"""Report of the speed comparison: times per component, ratios and targets.

Times of a case are those of its median run, so its parts sum to its whole. Ratios are given of
medians and of least times; targets look at the medians.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median_low

from ...pipeline.display import Report, counted, markdown_table, size
from ..estimates.flops import FORMULA
from .components import CAPTURED, COMPONENTS, INSIDE
from .presets import Preset
from .runner import SENTENCES, Case


@dataclass(frozen=True, slots=True)
class Measured:
    """One case.

    seconds  of each component, by run
    flops    counted operations of each component, one run
    formula  FLOPs of the LLM by `flops.FORMULA`; None where it does not apply
    tokens   visual tokens of each image
    memory   peak bytes
    inside   seconds of the parts of the component "projector", by run: of SVP in inference
    predicted  seconds of each component by `pipeline.bench.kernel_time`, what NumPy does left out
    """

    case: Case
    seconds: tuple[dict[str, float], ...]
    flops: dict[str, float]
    formula: float | None
    tokens: tuple[int, ...]
    memory: int
    inside: tuple[dict[str, float], ...] = ()
    predicted: Mapping[str, float] = field(default_factory=dict)

    @property
    def totals(self) -> list[float]:
        """Seconds of each run."""
        return [sum(run.values()) for run in self.seconds]

    @property
    def median(self) -> dict[str, float]:
        """The run of median length (of two, the shorter), by component."""
        return self.seconds[self._median_run]

    @property
    def median_inside(self) -> dict[str, float]:
        """Seconds of the projector's parts in the median run; empty where it was not split."""
        return self.inside[self._median_run] if self.inside else {}

    @property
    def _median_run(self) -> int:
        return self.totals.index(median_low(self.totals))

    @property
    def whole(self) -> float:
        """Seconds of the median run."""
        return sum(self.median.values())

    @property
    def model_flops(self) -> float:
        """The LLM by formula, where there is one, the rest as counted."""
        rest = sum(self.flops.values())
        return rest if self.formula is None else rest - self.flops["LLM"] + self.formula

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {"whole": self.whole, "model_flops": self.model_flops}


@dataclass(frozen=True, slots=True)
class SpeedReport(Report):
    """All cases of one run; `peak` bfloat16 FLOP/s of the device, if known."""

    preset: Preset
    device: str
    peak: float | None
    cases: tuple[Measured, ...]

    def ratios(
        self, seconds: Callable[[Measured], float] = lambda one: one.whole
    ) -> dict[str, float]:
        """MLP / SVP by kind of work and inputs; also SVP from cache against MLP live."""
        took = {
            (one.case.what, one.case.where, one.case.projector): seconds(one) for one in self.cases
        }
        found = {}
        for what, where, projector in took:
            slow = took.get((what, where, "mlp"))
            if projector != "svp" or slow is None:
                continue
            found[f"{what}, {where}"] = slow / took[what, where, "svp"]
            if where == "live" and (fast := took.get((what, "from cache", "svp"))):
                found[f"{what}, SVP from cache, MLP live"] = slow / fast
        return found

    def least_ratios(self) -> dict[str, float]:
        """As `ratios`, of the least times."""
        return self.ratios(lambda one: min(one.totals))

    @property
    def missed(self) -> list[str]:
        """Goals of the preset that this run measured and did not reach."""
        found = self.ratios()
        return [
            name for name, target in self.preset.targets.items() if found.get(name, target) < target
        ]

    @property
    def exit_code(self) -> int:
        """1 if a target was missed."""
        return int(bool(self.missed))

    def to_json(self) -> dict[str, object]:
        """For `--json`; seconds, bytes, FLOPs."""
        return {
            "preset": asdict(self.preset),
            "device": self.device,
            "peak": self.peak,
            "formula": FORMULA,
            "cases": [one.to_json() for one in self.cases],
            "ratios": self.ratios(),
            "least_ratios": self.least_ratios(),
            "missed": self.missed,
            "exit_code": self.exit_code,
        }

    def lines(self) -> list[str]:
        """Markdown."""
        kinds = dict.fromkeys(one.case.what for one in self.cases)
        lines = [*self._setting(), ""]
        for what in kinds:
            lines += [*self._table([one for one in self.cases if one.case.what == what]), ""]
        least = self.least_ratios()
        for name, ratio in self.ratios().items():
            lines.append(f"- {name}: MLP / SVP = {ratio:.2f} (least times: {least[name]:.2f})")
        met = [name for name in self.preset.targets if name in least and name not in self.missed]
        lines += [f"- target met: {name} >= {self.preset.targets[name]}" for name in met]
        return lines + [
            f"- TARGET MISSED: {name} >= {self.preset.targets[name]}" for name in self.missed
        ]

    def _setting(self) -> list[str]:
        p = self.preset
        models = (
            f"{self.device}, {p.dtype}, random weights. LLM: {counted(p.layers, 'layer')} of "
            f"{p.hidden}, vocabulary {p.vocab}; {p.encoder} at {p.view} px, SAM {p.sam} with "
            f"{p.points}x{p.points} prompts, photographs of {p.photo[1]}x{p.photo[0]}."
        )
        micro = ", ".join(f"{n} ({name})" for name, n in p.micro.items())
        work = (
            f"Training: {counted(p.images, 'image')} per step with {SENTENCES} sentences each, per "
            "forward "
            f"pass {micro}; no checkpointing. Inference: one image, one sentence; {p.answer} ids "
            "generated."
        )
        beside = "In brackets: predicted from counted operators by three constants of the device."
        return [models, work, f"FLOPs: {FORMULA}; the rest as torch's FlopCounter counts.", beside]

    def _table(self, cases: list[Measured]) -> list[str]:
        """A column per case."""
        names = [f"{one.case.projector.upper()} {one.case.where}" for one in cases]
        images = (
            counted(self.preset.batch, "image") if cases[0].case.work == "batch" else "one image"
        )
        what = f"{cases[0].case.what}, {'one step' if cases[0].case.stage else images}"
        every = (*COMPONENTS, CAPTURED)
        parts = [part for part in every if any(part in one.median for one in cases)]
        rows = []
        for part in parts:
            rows.append((f"{part}, ms", [_beside(one, part) for one in cases]))
            if part == "projector":
                rows += _inside_rows(cases)
        if cases[0].case.work == "generate":
            later = self.preset.answer - 1
            per = [f"{1e3 * one.median['LLM decode'] / later:.1f}" for one in cases]
            rows.append(("LLM decode per id, ms", per))
        rows += [
            ("**whole, ms**", [f"**{1e3 * one.whole:.1f}**" for one in cases]),
            ("least, ms", [f"{1e3 * min(one.totals):.1f}" for one in cases]),
            ("visual tokens per image", [_tokens(one) for one in cases]),
            ("peak memory", [size(one.memory) for one in cases]),
            ("TFLOP", [f"{one.model_flops / 1e12:.3f}" for one in cases]),
            ("LLM TFLOP, counted", [f"{_llm(one) / 1e12:.3f}" for one in cases]),
            ("TFLOP/s", [f"{one.model_flops / one.whole / 1e12:.3f}" for one in cases]),
        ]
        if all(one.formula is not None for one in cases):
            tera = [f"{(one.formula or 0) / 1e12:.3f}" for one in cases]
            rows.append(("LLM TFLOP, formula", tera))
        if self.peak:
            use = [f"{one.model_flops / one.whole / self.peak:.1%}" for one in cases]
            rows.append(("model FLOPs utilisation", use))
        return markdown_table((what, *names), [(name, *v) for name, v in rows]).splitlines()


def _inside_rows(cases: Sequence[Measured]) -> list[tuple[str, list[str]]]:
    """A row for each part of the projector that any case has, "-" for those without."""
    return [
        (
            f"of it {part}, ms",
            [
                f"{1e3 * one.median_inside[part]:.1f}" if part in one.median_inside else "-"
                for one in cases
            ],
        )
        for part in INSIDE
        if any(part in one.median_inside for one in cases)
    ]


def _beside(one: Measured, part: str) -> str:
    """Milliseconds of a component, and the predicted ones."""
    measured = f"{1e3 * one.median.get(part, 0):.1f}"
    return f"{measured} ({1e3 * one.predicted[part]:.1f})" if part in one.predicted else measured


def _llm(one: Measured) -> float:
    return sum(flops for part, flops in one.flops.items() if part.startswith("LLM"))


def _tokens(one: Measured) -> str:
    """Their mean, and the range where they differ."""
    low, high = min(one.tokens), max(one.tokens)
    mean = sum(one.tokens) / len(one.tokens)
    return f"{mean:g}" if low == high else f"{mean:.1f} ({low} to {high})"
