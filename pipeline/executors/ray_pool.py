"""Ray actors as a pool of workers.

No array crosses the object store: an actor writes its own shards and returns a few hundred bytes.
A dead actor is replaced by us (max_restarts=0, max_task_retries=0): Ray's own retries would run a
poison shard again without anybody counting.
"""

import time
from typing import Any

from ..text import shorten
from .base import ExecutorOptions, Job, Outcome, Task
from .worker import Life, thread_environment

LOOK_S = 0.5  # between two looks at what jobs told


class Box:
    """An actor that keeps what jobs tell until the run takes it: a few hundred bytes a second."""

    def __init__(self) -> None:
        self._told: list[Outcome] = []

    def put(self, told: Outcome) -> None:
        """Keep it."""
        self._told.append(told)

    def take(self) -> list[Outcome]:
        """All that was put since the last call."""
        told, self._told = self._told, []
        return told


class RayLife(Life):
    """A `Life` whose jobs tell through a `Box`; nobody waits for it."""

    def __init__(self, task: Task, worker: int, threads: int, box: Any) -> None:
        super().__init__(task, worker, threads, box.put.remote)


class RayPool:
    """`Pool` of actors; at most one call is under way per actor."""

    def __init__(self, task: Task, size: int, options: ExecutorOptions) -> None:
        import ray

        gpu, remote = options.device != "cpu", options.ray_address or None
        keeper: Any = ray.remote(Box)
        self._box: Any = keeper.options(num_cpus=0, max_restarts=0).remote()
        self._taken = self._box.take.remote()
        self._looked = time.monotonic()
        self._class = ray.remote(RayLife).options(
            num_cpus=0 if gpu else 1,
            num_gpus=1 if gpu else 0,
            max_restarts=0,
            max_task_retries=0,
            runtime_env=remote and {"env_vars": thread_environment(options.threads)},
        )
        self.size = size
        self._task, self._threads = task, options.threads
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        for worker in range(size):
            self._start(worker)

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`."""
        self._calls[self._actors[worker].do.remote(job)] = worker

    def wait(self, timeout: float) -> list[Outcome]:
        """See `Pool`."""
        import ray

        if not self._calls:
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout)
        return [*self._hear(), *(self._receive(call) for call in ready)]

    def restart(self, worker: int) -> None:
        """See `Pool`."""
        import ray

        ray.kill(self._actors[worker], no_restart=True)
        self._calls = {call: w for call, w in self._calls.items() if w != worker}
        self._start(worker)

    def close(self) -> None:
        """See `Pool`."""
        import ray

        for actor in (*self._actors.values(), self._box):
            ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._calls.clear()

    def _start(self, worker: int) -> None:
        self._actors[worker] = self._class.remote(self._task, worker, self._threads, self._box)
        self._calls[self._actors[worker].load.remote()] = worker

    def _hear(self) -> list[Outcome]:
        """What jobs told since the last look; nothing once the box is lost with its node."""
        import ray

        if time.monotonic() - self._looked < LOOK_S or not ray.wait([self._taken], timeout=0)[0]:
            return []
        self._looked = time.monotonic()
        try:
            told: list[Outcome] = ray.get(self._taken)
        except ray.exceptions.RayActorError:
            return []
        self._taken = self._box.take.remote()
        return told

    def _receive(self, call: Any) -> Outcome:
        import ray

        worker = self._calls.pop(call)
        try:
            outcome = ray.get(call)
        except ray.exceptions.RayActorError as error:  # ActorUnavailableError is one of them
            return Outcome(worker, "died", detail=shorten(str(error), 500))
        assert isinstance(outcome, Outcome)
        return outcome
