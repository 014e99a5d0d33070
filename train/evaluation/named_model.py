"""The model that a command names, looked for without PyTorch, whose import takes seconds."""

from difflib import get_close_matches
from pathlib import Path

from ...pipeline.display import show
from ...pipeline.errors import ConfigError, MissingError
from ...pipeline.fetch.catalogue import CHECKPOINTS, PREFIX
from ...pipeline.io.paths import expand
from ...pipeline.store import Place
from ...pipeline.weights.locate import LM_FILES, hub_folder, weight_folders
from ..trainer.run_status import newest_run, no_run


def require_model(asked: Place | None, runs: Place, published: str | None = None) -> None:
    """Refuse at once what `find_trained` would refuse because nothing lies where it is named.

    What is at an address is left to it. Raises MissingError, ConfigError.
    """
    if published is not None:
        if asked is not None:
            raise ConfigError("--published and --checkpoint name two models: give one of them")
        published_folder(published)
    elif isinstance(asked, Path) and not asked.exists():
        raise no_run(asked)
    elif asked is None and isinstance(runs, Path):
        newest_run(runs)


def published_folder(given: str) -> Path:
    """Local folder of `given`; see `find_published`."""
    if given.startswith(PREFIX):
        return hub_folder(given.removeprefix(PREFIX), LM_FILES)
    places = [expand(given), *(folder / given for folder in weight_folders())]
    found = next((place for place in places if place.is_dir()), None)
    if found is None and any(place.exists() for place in places):
        raise ConfigError(
            f"--published {show(given, 300)}: is a file: give its folder, with its "
            "config.json and tokenizer"
        )
    if found is None:
        raise MissingError(
            f"--published {show(given, 300)}: no such folder: {_where_to_get(given)}"
        )
    if not (found / "config.json").is_file():
        snapshots = sorted(found.glob("snapshots/*/config.json"))  # a repository of the hub's cache
        if snapshots:
            raise ConfigError(
                f"--published {show(str(found), 300)}: is the cache of a repository: give its "
                f"snapshot {show(str(snapshots[0].parent), 300)}"
            )
        raise ConfigError(f"--published {show(str(found), 300)}: holds no config.json")
    return found


def _where_to_get(given: str) -> str:
    """The command that brings what `given` names; the known names if it names none of them."""
    name = Path(given).name
    known = {key.lower(): row.repository for key, row in CHECKPOINTS.items()}
    repository = known.get(name.lower()) or (given if given.count("/") == 1 else "")
    if repository and not given.startswith((".", "/", "~")):
        return (
            f"get it with `hf download {repository}` and give {PREFIX}{repository}, or give the "
            "folder it lies in"
        )
    near = get_close_matches(name.lower(), known, 1, 0.8)
    hint = f"did you mean {PREFIX}{known[near[0]]}? " if near else ""
    models = ", ".join(r.repository for r in CHECKPOINTS.values() if r.flag == "--published")
    return (
        f"{hint}Published are {models}: get one with `hf download OWNER/NAME` and give "
        f"{PREFIX}OWNER/NAME, or give the folder it lies in"
    )
