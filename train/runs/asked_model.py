"""Options that name the model of `svp predict` and `svp demo`."""

from dataclasses import dataclass, field
from pathlib import Path

from ...pipeline.errors import ConfigError
from ...pipeline.store import Place
from ..evaluation.load_trained import find_trained
from ..options import TrainFlags
from .segmenter import Segmenter, open_segmenter


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A model to ask about photographs.

    cache       whose recipe cuts the photographs; None: the run's own, or `size`'s
    checkpoint  run or one of its checkpoints, by folder or address; None: the newest run in `runs`
    published   a GLaMM or LISA folder, or hub:OWNER/NAME, asked as it is, `own_sam` with its own
                SAM instead of the one of `sam_weights`
    lm_weights  "int8" for those of the language model's layers; None: as they are
    budget      superpixels: auto, N or mean:N of the photograph, ask:N of each expression; None: as the
                model was trained
    reject_above  chance above which nothing is meant, of [REJ] against [SEG], or by token answers; None:
                one half, and by token answers never
    decoder     False: masks are unions of the superpixels that token answers choose
    """

    cache: Place | None = None
    size: str | None = None
    checkpoint: Place | None = None
    published: str | None = None
    own_sam: bool = False
    runs: Place = Path("runs")
    flags: TrainFlags = field(default_factory=TrainFlags)
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    lm_weights: str | None = None
    budget: str | None = None
    reject_above: float | None = None
    decoder: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.published is not None and self.cache is not None:
            raise ConfigError("--published has its own preprocessing: leave out --cache")
        if self.own_sam and self.published is None:
            raise ConfigError("--own-sam is for --published")
        if self.own_sam and self.sam_weights is not None:
            raise ConfigError("--own-sam replaces --sam-weights: leave one of them out")

    def open(self) -> Segmenter:
        """Raises what `svp.load` raises."""
        return open_segmenter(
            find_trained(self.checkpoint, self.runs, self.published),
            device=self.device,
            size=self.size,
            cache=self.cache,
            flags=self.flags,
            sam_weights=self.sam_weights,
            encoder_weights=self.encoder_weights,
            own_sam=self.own_sam,
            lm_weights=self.lm_weights,
            budget=self.budget,
            reject_above=self.reject_above,
            decoder=self.decoder,
        )
