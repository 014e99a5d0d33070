"""Request of `svp eval`, from the command line or from Python."""

from dataclasses import dataclass, field
from pathlib import Path

from ...pipeline.cache.row_tier import RowTier
from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.io.yaml_files import Override
from ...pipeline.store import Place
from ...pipeline.superpixels.budget.selector import AUTO, parse_budget
from ..evaluation.protocols import Protocol
from ..evaluation.trained import require_forced
from ..options import DataRequest, TrainFlags, require_live


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """Options of `svp eval`.

    split           names of the splits, by commas: `val,testA,testB`; `all`: the whole data set
    data            without a dataset: what the caches say they were made from, else the run's own
    caches          of the splits, each taken for the split it records; none: those of the run's data
    tier            keeps rows of caches in object storage on this machine
    checkpoint      run or one of its checkpoints, by folder or address; None: the newest run in `runs`
    published       a GLaMM or LISA folder, or hub:OWNER/NAME, asked as it is; without caches the
                    photographs are read live, `own_sam` with the folder's own SAM
    flags           where weights lie that the run started from
    repeats         draws of protocol glamm
    shuffle_orders  protocol full again with so many other superpixel orders
    bounds          compute what the superpixels allow, and what the decoder does with a click
    live            encoders in the loop instead of the caches' rows
    overrides       options of the projector that change no weight, as `--set` takes them
    budget          of superpixels: auto, N, mean:N or ask:N; None: as the model was trained
    lm_weights      "int8" for those of the language model's layers; None: as they are
    reject_above    chance above which nothing is meant, of [REJ] against [SEG], or by token answers; None:
                    one half, and by token answers never
    decoder         False: masks are unions of the superpixels that token answers choose; with `bounds`
                    and a cache with SAM embeddings, SAM's decoder makes others to compare with
    out             result file; with several splits `-SPLIT` is added to its name (`result_file`);
                    None: a new name in the run's `eval` folder; the page goes beside it
    size            "tiny": the tiny models may meet data that is not generated
    """

    data: DataRequest = field(default_factory=DataRequest)
    split: str = "val"
    caches: tuple[Place, ...] = ()
    tier: RowTier | None = None
    checkpoint: Place | None = None
    published: str | None = None
    own_sam: bool = False
    runs: Place = Path("runs")
    flags: TrainFlags = field(default_factory=TrainFlags)
    protocol: Protocol = "full"
    generate: bool = False
    seed: int = 0
    repeats: int = 1
    shuffle_orders: int = 0
    limit: int | None = None
    batch: int = 16
    bounds: bool = True
    live: bool = False
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    overrides: tuple[Override | str, ...] = ()
    budget: str | None = None
    lm_weights: str | None = None
    reject_above: float | None = None
    decoder: bool = True
    device: str = "auto"
    out: Path | None = None
    size: str | None = None

    def __post_init__(self) -> None:
        if not all(self.splits) or len(set(self.splits)) < len(self.splits):
            raise ConfigError(f"--split {show(self.split)}: give names once each: val,testA,testB")
        if self.own_sam and (self.published is None or self.caches):
            raise ConfigError(
                "--own-sam is for --published without --from-cache: a cache holds its own"
            )
        if self.own_sam and self.sam_weights is not None:
            raise ConfigError("--own-sam replaces --sam-weights: leave one of them out")
        asked = AUTO if self.budget is None else parse_budget(self.budget)
        require_forced(self.generate, self.reject_above, self.decoder, asked)
        if asked.ask is not None and self.protocol == "glamm":
            raise ConfigError(
                f"--budget {asked.text} is for --protocol full: glamm asks several questions at once"
            )
        live = self.live or (self.published is not None and not self.caches)
        # The upper bounds click with SAM's decoder.
        require_live(live, None if self.bounds else self.sam_weights, self.encoder_weights)
        if self.repeats > 1 and self.protocol == "full":
            raise ConfigError("--repeats is for --protocol glamm: full has nothing random in it")
        if self.shuffle_orders and self.protocol == "glamm":
            raise ConfigError("--shuffle-orders is for --protocol full: glamm mixes two spreads")
        if min(self.repeats, self.batch) < 1 or self.shuffle_orders < 0:
            raise ConfigError("--repeats and --batch need >= 1, --shuffle-orders >= 0")

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(name.strip() for name in self.split.split(","))

    def result_file(self, split: str) -> Path | None:
        """Result file of one of the splits, if `out` is given.

        >>> EvalRequest(split="val,testA", out=Path("mine.jsonl")).result_file("testA").name
        'mine-testA.jsonl'
        """
        if self.out is None or len(self.splits) == 1:
            return self.out
        return self.out.with_name(f"{self.out.stem}-{split}{self.out.suffix or '.jsonl'}")
