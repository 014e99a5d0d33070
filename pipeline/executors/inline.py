"""Jobs in the calling process, one after another: for debuggers, profilers and tiny runs.

Nothing is isolated here: a job that kills its process ends the run, a hung one hangs it. What a
job tells is heard at once, and may stop it.
"""

from collections.abc import Callable

from .base import Job, Outcome, Task
from .worker import Life


class InlinePool:
    """`Pool` of one worker that is this process."""

    size = 1

    def __init__(self, task: Task, threads: int) -> None:
        self._task, self._threads = task, threads
        self._job: Job | None = None
        self.listen: Callable[[Outcome], None] = lambda outcome: None
        self.restart(0)

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`: the job is done by the next `wait`."""
        self._job = job

    def wait(self, timeout: float) -> list[Outcome]:
        """See `Pool`; takes as long as the job."""
        if not self._life.loaded:
            return [self._life.load()]
        job, self._job = self._job, None
        return [self._life.do(job)] if job else []

    def restart(self, worker: int) -> None:
        """See `Pool`: load the models again."""
        self._life = Life(self._task, 0, self._threads, lambda told: self.listen(told))

    def close(self) -> None:
        """See `Pool`: nothing was started."""
