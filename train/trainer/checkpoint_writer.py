"""Checkpoint writer: one thread writes while training continues.

Training stands still for a copy of the tensors alone. Files, names and their order are those of
`save_checkpoint`: a folder has its name once it is complete, so a kill at any point leaves the
checkpoint before. One checkpoint is under way at most, and the memory of one copy is held.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

from torch import Tensor

from .checkpoint import State, prune, save_checkpoint


class CheckpointWriter:
    """Writes checkpoints under `folder`, and deletes all but the last `keep` after each.

    publish  called in the thread with `keep` after each checkpoint: sends it where it is to lie
    An error of the thread is raised by the next `wait`, once; `save` waits first.
    """

    def __init__(
        self, folder: Path, keep: int, publish: Callable[[int], None] | None = None
    ) -> None:
        self._folder, self._keep, self._publish = folder, keep, publish
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, state: State, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Start writing; the tensors now belong to the writer and must not change any more."""
        self.wait()
        # Ends with the process: one that is to end at once does not wait for it, and leaves what a
        # kill leaves.
        self._thread = Thread(
            target=self._write, args=(state, weights, optimizer), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return once the checkpoint under way is on the disk. Raises CacheError if it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(
        self, state: State, weights: dict[str, Tensor], optimizer: dict[str, Tensor]
    ) -> None:
        try:
            save_checkpoint(self._folder, state, weights, optimizer)
            prune(self._folder, self._keep)
            if self._publish is not None:
                self._publish(self._keep)
        except BaseException as error:  # noqa: BLE001  `wait` raises it in the main thread
            self._error = error
