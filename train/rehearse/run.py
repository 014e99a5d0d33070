"""`svp rehearse`: make stand-ins, run every documented command on them, then its own steps."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

from ...pipeline.display import Report, counted, show
from ...pipeline.errors import ConfigError, MissingError
from ...pipeline.weights.rehearsal import MARK, VARIABLE
from .documents import Block, check_documents, documents, printed_files, read_blocks
from .extras import check_extras
from .own_steps import APART, MORE
from .server import import_everything
from .walk import Outcome, Step, walk

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
# What the documents' relative paths and `make` find in a checkout.
_FROM_CHECKOUT = ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt", "workflows",
                  ".venv")  # fmt: skip
MADE = "stand-ins.yaml"  # settings that a folder was made with
# Names, files, layouts, depths of the encoders and stages stay real; these only cost time.
SMALL: dict[str, object] = {
    "sam": {"vit_b": [96, 2], "vit_l": [128, 2], "vit_h": [160, 2]},
    "encoder_width": 128,
    "grid_points": 2,
    "batch": 1,
    "projectors": {
        "qformer": {"hidden": 96, "heads": 4, "ffn": 384},
        "c_abstractor": {"hidden": 96},
        "d_abstractor": {"d_model": 96, "heads": 4, "ffn": 96},
        "tokenpacker": {"embed_dim": 96, "heads": 4},
    },
    "steps": 2,
    "global_batch": 2,
    "scenes": 3,
    "in_process": True,
}


@dataclass(frozen=True)
class RehearseReport(Report):
    """Outcome of every command, and reasons for those skipped; `exit_code` 1 if any failed."""

    folder: Path
    problems: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    left_out: tuple[tuple[str, str, str], ...]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """Faults of the documents, then of the steps, in order."""
        return [*self.problems, *(o.failure for o in self.outcomes if o.failure)]

    @property
    def exit_code(self) -> int:
        """0 if everything passed."""
        return int(bool(self.failures))

    def lines(self) -> list[str]:
        commands = [c for outcome in self.outcomes for c in outcome.commands]
        lines = [f"{MARK} in {self.folder}: stand-ins and shortened recipes, no results"]
        lines += [f"{s:6.1f} s  {code:3}  {place}: {text}" for place, text, code, s in commands]
        lines += [f"not run  {place}: {text} ({why})" for place, text, why in self.left_out]
        lines += [failure.splitlines()[0] for failure in self.failures]
        return [
            *lines,
            self._total(len(commands)),
        ]

    def _total(self, commands: int) -> str:
        passed = sum(o.code == 0 for o in self.outcomes)
        return (
            f"{passed:,} of {counted(len(self.outcomes), 'block')} passed, "
            f"{counted(commands, 'command')} of svp run, "
            f"{counted(len(self.left_out), 'documented command')} left out, "
            f"{counted(len(self.problems), 'fault')} of the documents, {self.seconds:.0f} s"
        )

    def to_json(self) -> dict[str, object]:
        return {
            "folder": str(self.folder),
            "ran": [
                {"place": place, "command": text, "code": code, "seconds": seconds}
                for outcome in self.outcomes
                for place, text, code, seconds in outcome.commands
            ],
            "left_out": [
                {"place": place, "command": text, "reason": why}
                for place, text, why in self.left_out
            ],
            "failures": self.failures,
            "seconds": self.seconds,
        }


def rehearse(
    out: Path | None,
    *,
    full: bool,
    keep: bool,
    only: Sequence[str],
    main: click.Command,
    root: Path = ROOT,
) -> RehearseReport:
    """Make the stand-ins in `out` and walk. Raises MissingError, ConfigError.

    out   a folder that is new, empty, or of an earlier rehearsal; None: a temporary one
    full  the published sizes (about 40 GB on disk and in memory, hours on a CPU)
    keep  leave a temporary folder; it is left too if something failed
    only  run only blocks whose place or name holds one of these texts
    main  the command line under test, passed in because this package may not import it
    """
    began = time.monotonic()
    found = documents(root)
    if not found[0].is_file():
        raise MissingError(
            f"no README.md beside the package ({show(str(root), 200)}): the rehearsal runs the "
            "documents' commands, so it needs a checkout of the repository"
        )
    blocks = [b for path in found for b in read_blocks(path, str(path.relative_to(root)))]
    steps = _steps(blocks, only)
    problems = check_documents(root, main) + check_extras(root)
    for problem in problems:
        log.info(problem)
    folder = _folder(out)
    env = prepare(folder, root, full=full)
    outcomes = walk(_order(steps), folder, env, main, free=2)
    if out is None and not keep and not any(o.code for o in outcomes):
        shutil.rmtree(folder)
    left_out = tuple(
        (c.place, c.text, c.reason) for block in blocks for c in block.commands if c.reason
    )
    return RehearseReport(
        folder, tuple(problems), tuple(outcomes), left_out, time.monotonic() - began
    )


def _order(steps: Sequence[Step]) -> list[list[Step]]:
    """Chains of steps that do not meet: README.md's and `APART`, then those that wait for README.md's.

    README.md makes the files that the other documents and `MORE` start from. The documents are one
    chain, since a command may take the newest run or cache; docs/reproduce.md names its own.
    """
    readme = [step for step in steps if step.file == "README.md"]
    apart = [step for step in steps if step in APART]
    tables = [step for step in steps if step.file == "docs/reproduce.md"]
    own = [[step] for step in steps if step in MORE]
    others = [step for step in steps if step.file not in ("README.md", "docs/reproduce.md", "")]
    return [readme, apart, others, tables, *reversed(own)]  # the longest first


def _steps(blocks: Sequence[Block], only: Sequence[str]) -> list[Step]:
    steps = [
        Step(f"{block.place}", block.script(), block.file)
        for block in blocks
        if any(not command.reason for command in block.commands)
    ]
    steps += [*APART, *MORE]
    chosen = [step for step in steps if not only or any(text in step.name for text in only)]
    if not chosen:
        names = ", ".join(step.name for step in steps)
        raise ConfigError(f"--only {show(' '.join(only))}: no such block; there are {names}")
    return chosen


def _folder(out: Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="svp-rehearsal-"))
    if out.is_dir() and any(out.iterdir()) and not (out / "dial.yaml").is_file():
        raise ConfigError(f"--out {show(str(out), 200)}: not empty, and no rehearsal's folder")
    out.mkdir(parents=True, exist_ok=True)
    return out.resolve()


def prepare(folder: Path, root: Path, *, full: bool) -> dict[str, str]:
    """The stand-ins, and what the documents' commands find beside them; the environment of the walk."""
    for name in _FROM_CHECKOUT:
        if (root / name).exists() and not (folder / name).is_symlink():
            (folder / name).symlink_to(root / name)
    for path in documents(root):
        for name, code in printed_files(path).items():
            (folder / name).write_text(code)
    began = time.monotonic()
    import_everything()
    log.info(f"everything imported in {time.monotonic() - began:.1f} s")
    return stand_ins(folder, full=full)


def stand_ins(folder: Path, *, full: bool) -> dict[str, str]:
    """The settings and the stand-ins in `folder`, made unless they are there; the environment in which
    commands use them, from that folder.
    """
    settings = folder / "dial.yaml"
    text = yaml.safe_dump({"folder": str(folder), **({} if full else SMALL)}, sort_keys=False)
    env = {
        VARIABLE: str(settings),
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home" / ".cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }
    (folder / "home").mkdir(exist_ok=True)
    made = folder / MADE  # written last: stopped in between, everything is made again
    if made.is_file() and made.read_text() == text == settings.read_text():
        return env
    made.unlink(missing_ok=True)
    settings.write_text(text)
    began = time.monotonic()
    import_everything()
    pid = os.fork()  # tensors are made in a child: the process that forks commands only imports
    if pid == 0:
        _make_and_leave(folder, env, full)
    if os.waitpid(pid, 0)[1]:
        raise MissingError("the stand-ins could not be made; the error is above")
    made.write_text(text)
    log.info(f"stand-ins made in {time.monotonic() - began:.1f} s: {folder}")
    return env


def _make_and_leave(folder: Path, env: dict[str, str], full: bool) -> None:
    import traceback

    code = 1
    try:
        os.environ.update(env)
        make_stand_ins(folder, full)
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child: no caller would print it
        traceback.print_exc()
    finally:
        os._exit(code)


def make_stand_ins(folder: Path, full: bool) -> None:
    """Every file the documents' commands name, under its public name."""
    from ...model.conversion.llama_shape import LlamaShape
    from ...model.conversion.stand_in import SMALL as SMALL_LLAMA
    from ...model.conversion.stand_in import write_standin
    from .photographs import draw, write_coco, write_own
    from .stand_in_weights import write_weights

    write_weights(folder / "weights")
    shape = LlamaShape() if full else SMALL_LLAMA
    vision = 1024 if full else 128
    for name, layout in (("GLaMM-GranD-Pretrained", "glamm"), ("GLaMM-RefSeg", "glamm"),
                         ("LISA-7B-v1", "lisa")):  # fmt: skip
        write_standin(folder / name, layout, shape=shape, full=full, vision=vision)
    write_coco(folder / "refer_data")
    write_own(folder / "my_data")
    (folder / "my_photos").mkdir(exist_ok=True)
    for index in (0, 4):
        draw(index).save(folder / "my_photos" / f"{index:04d}.jpg", quality=90)
    draw(0).save(folder / "photo.jpg", quality=90)
