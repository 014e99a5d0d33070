"""Actors of a Ray run: workers, and the box that keeps their progress for the run."""

from dataclasses import asdict
from typing import Any

from .base import BatchDone, Event, Job
from .worker import Setup, WorkerRuntime


class RayWorkerRuntime(WorkerRuntime):
    """A `WorkerRuntime` whose jobs report progress through a `Box`, without waiting for it."""

    def __init__(self, setup: Setup, box: Any) -> None:
        super().__init__(setup)
        self._box = box

    def last(self, job: Job) -> Event:
        """Do a job; its Done or Failed."""
        for event in self.do(job):
            if not isinstance(event, BatchDone):
                return event
            self._box.put.remote((event.worker, event.shard, asdict(event.report)))
        raise AssertionError("a job ends with Done or Failed")


def actor_classes() -> tuple[type[Any], type[Any]]:
    """Classes of the workers and of the box for their progress.

    They are made in a function because such classes travel by value: a machine without svp, or with
    another one, can then say so, and its name and the cause are known. So they refer to nothing of
    svp, not even in their signatures.
    """

    class SvpWorker:
        def hello(self) -> dict[str, str]:
            """Node and host of this actor, with its version of svp or the reason that there is none."""
            import importlib
            import platform
            import traceback

            import ray

            node = ray.get_runtime_context().get_node_id()
            found = {"node": node, "host": platform.node()}
            try:
                return found | {"svp": importlib.import_module("svp").__version__}
            except BaseException:  # noqa: BLE001  whatever it is, the run is told
                return found | {"error": traceback.format_exc()}

        def load(self, setup: "Setup", box: Any) -> "Event":
            """Load the models."""
            import importlib

            ours = importlib.import_module("svp.pipeline.executors.ray_actor")
            self._runtime = ours.RayWorkerRuntime(setup, box)
            event: Event = self._runtime.load()
            return event

        def last(self, job: "Job") -> "Event":
            """See `RayWorkerRuntime`."""
            event: Event = self._runtime.last(job)
            return event

    class Box:
        """Keeps what jobs tell until the run takes it: a few hundred bytes a second."""

        def __init__(self) -> None:
            self._told: list[tuple[int, int, dict[str, Any]]] = []

        def put(self, told: tuple[int, int, dict[str, Any]]) -> None:
            self._told.append(told)

        def take(self) -> list[tuple[int, int, dict[str, Any]]]:
            told, self._told = self._told, []
            return told

    return SvpWorker, Box
