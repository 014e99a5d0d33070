"""Options of a trained model's projector that change no weight: its number of tokens, a threshold."""

from collections.abc import Sequence
from dataclasses import replace

from ...model.projectors import build_projector, projector_class
from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.io.yaml_files import Override
from .trained import Trained

OPTIONS = "model.projector.options."


def adjusted(trained: Trained, changes: Sequence[Override | str], grid: tuple[int, int]) -> Trained:
    """`trained` with `changes` of its projector's options, as `--set` takes them; its model changes.

    grid  of the caches

    The digests of its results name the changes. Raises ConfigError for a field that only a training
    may set, or a value that does not fit.
    """
    if not changes:
        return trained
    made = [Override.parse(change) if isinstance(change, str) else change for change in changes]
    config = trained.recipe.model.projector
    allowed = sorted(projector_class(config.name).adjustable)
    for change in made:
        if change.path.removeprefix(OPTIONS) not in allowed or not change.path.startswith(OPTIONS):
            names = ", ".join(OPTIONS + name for name in allowed) or "nothing"
            raise ConfigError(
                f"--set {show(str(change))}: after training projector {config.name} lets {names} be "
                "set; other fields are those of the training"
            )
    options = {**config.options, **{c.path.removeprefix(OPTIONS): c.value for c in made}}
    old = trained.model.projector
    new = build_projector(config.name, in_dim=old.in_dim, llm_dim=old.llm_dim, grid=grid, **options)
    new.num_tokens(grid)  # refuses more tokens than patches now
    new.load_state_dict(old.state_dict())
    new.set_sspe(old.add_sspe)
    trained.model.projector = new.requires_grad_(False).eval()
    told = " ".join(sorted(str(change).removeprefix(OPTIONS) for change in made))
    return replace(trained, digests=trained.digests | {"projector options": told})
