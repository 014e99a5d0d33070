"""Script run in the environment of another data loader (see other_loaders.py), without svp.

Arguments: name of the loader, folder for its files, .npy of the features, worker processes. It writes
the rows in the loader's own format, then answers each line of its input, a JSON object, by one line:

{}                          {"rows": number of rows}
{"check": true}             {"digest": ...} of all rows as the loader gives them
{"seed": S, "seconds": T}   {"rate": images per second, "cpu": milliseconds of CPU per image}

CPU is that of this process and all below it. Rows come shuffled by the loader's own means, in batches
of 16; the first batches of every pass are not timed. With "remote", an address to which the folder was
copied, and "local", a folder that is not there yet, a pass is read from that address: its digest, or
rate and CPU of the whole, without start-up, with {"first": seconds until the first batch}.
"""

import gc
import hashlib
import json
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH, AHEAD, PASSES = 16, 4, 8  # images; batches; passes over the rows in one iteration
START = 6  # batches at the start of every iteration that are not timed, a quarter of it at most
CHUNK = 1 << 26  # bytes of a file
BUFFER = 128  # rows that are shuffled among themselves, where that is the loader's way

Batch = tuple[Any, Any]  # (B,) numbers of rows; (B,P,C) float16
Epochs = Iterator[Iterable[Batch]]


class LitData:
    """Lightning's litdata: `optimize`, `StreamingDataset`, `StreamingDataLoader`."""

    def __init__(self, folder: Path, source: Path, workers: int) -> None:
        import litdata

        self.folder, self.workers = str(folder), workers
        rows = len(np.load(source, mmap_mode="r"))
        litdata.optimize(
            partial(_litdata_row, str(source)), list(range(rows)), self.folder,
            num_workers=1, chunk_bytes=CHUNK,
        )  # fmt: skip

    def epochs(self, seed: int) -> Epochs:
        from litdata import StreamingDataLoader, StreamingDataset

        data = StreamingDataset(self.folder, shuffle=True, seed=seed)
        loader = StreamingDataLoader(
            data, batch_size=BATCH, num_workers=self.workers, persistent_workers=True
        )
        while True:
            yield ((batch["i"], batch["x"]) for batch in loader)

    def remote(self, address: str, local: str, seed: int) -> Iterable[Batch]:
        from litdata import StreamingDataLoader, StreamingDataset

        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            # Its client refuses a server without TLS, whatever the environment says.
            from litdata.streaming import downloader

            downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
        data = StreamingDataset(address, cache_dir=local, shuffle=True, seed=seed)
        loader = StreamingDataLoader(
            data, batch_size=BATCH, num_workers=self.workers, multiprocessing_context="fork"
        )
        return ((batch["i"], batch["x"]) for batch in loader)


def _litdata_row(source: str, i: int) -> dict[str, Any]:
    return {"i": i, "x": np.load(source, mmap_mode="r")[i].copy()}


class MosaicML:
    """MosaicML Streaming: `MDSWriter`, `StreamingDataset`, `StreamingDataLoader`."""

    def __init__(self, folder: Path, source: Path, workers: int) -> None:
        from streaming import MDSWriter

        self.folder, self.workers = str(folder), workers
        features = np.load(source, mmap_mode="r")
        self.rows = len(features)
        shape = ",".join(map(str, features.shape[1:]))
        columns = {"i": "int", "x": f"ndarray:float16:{shape}"}
        with MDSWriter(out=self.folder, columns=columns, size_limit=CHUNK) as out:
            for i, image in enumerate(features):
                out.write({"i": i, "x": np.array(image)})

    def epochs(self, seed: int, passes: int = PASSES) -> Epochs:
        from streaming import StreamingDataLoader, StreamingDataset

        while True:
            data = StreamingDataset(
                local=self.folder, shuffle=True, shuffle_seed=seed, batch_size=BATCH,
                epoch_size=passes * self.rows,
            )  # fmt: skip
            loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=self.workers)
            yield ((batch["i"], batch["x"]) for batch in loader)

    def once(self) -> Iterable[Batch]:
        return next(self.epochs(0, 1))

    def remote(self, address: str, local: str, seed: int) -> Iterable[Batch]:
        from streaming import StreamingDataLoader, StreamingDataset

        data = StreamingDataset(
            remote=address, local=local, shuffle=True, shuffle_seed=seed, batch_size=BATCH
        )
        # Forked workers would share the connection over which the index came and mix up its answers,
        # which nothing notices without TLS.
        for stream in data.streams:
            stream._downloader.clean_up()
        loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=self.workers)
        return ((batch["i"], batch["x"]) for batch in loader)


class WebDataset:
    """webdataset: tar files, `WebDataset`, `WebLoader`; shuffled by shard and in a buffer."""

    def __init__(self, folder: Path, source: Path, workers: int) -> None:
        import webdataset

        folder.mkdir()
        self.folder, self.workers = folder, workers
        features = np.load(source, mmap_mode="r")
        self.shape = features.shape[1:]
        with webdataset.ShardWriter(str(folder / "%04d.tar"), maxsize=CHUNK, verbose=0) as out:
            for i, image in enumerate(features):
                out.write({"__key__": f"{i:08d}", "x.bin": image.tobytes()})

    def epochs(self, seed: int, passes: int = PASSES) -> Epochs:
        import webdataset

        files = [str(path) for path in sorted(self.folder.glob("*.tar"))]
        while True:
            data = (
                webdataset.WebDataset(files, shardshuffle=len(files), seed=seed)
                .shuffle(BUFFER, initial=BUFFER)
                .map(partial(_web_row, self.shape))
                .repeat(passes)
                .batched(BATCH)
            )
            yield iter(webdataset.WebLoader(data, batch_size=None, num_workers=self.workers))

    def once(self) -> Iterable[Batch]:
        return next(self.epochs(0, 1))


def _web_row(shape: tuple[int, ...], sample: dict[str, Any]) -> tuple[int, Any]:
    return int(sample["__key__"]), np.frombuffer(sample["x.bin"], np.float16).reshape(shape)


class Lance:
    """Lance: a fixed-size list per row, batches by `take` in threads."""

    def __init__(self, folder: Path, source: Path, workers: int) -> None:
        import lance
        import pyarrow

        features = np.load(source, mmap_mode="r")
        self.rows, self.shape, self.workers = len(features), features.shape[1:], workers
        width = features[0].size
        schema = pyarrow.schema(
            {"i": pyarrow.int64(), "x": pyarrow.list_(pyarrow.float16(), width)}
        )
        for first in range(0, self.rows, 64):
            part = np.array(features[first : first + 64])
            flat = pyarrow.array(part.reshape(-1))
            columns = {
                "i": pyarrow.array(range(first, first + len(part)), pyarrow.int64()),
                "x": pyarrow.FixedSizeListArray.from_arrays(flat, width),
            }
            mode = "append" if first else "create"
            lance.write_dataset(pyarrow.table(columns, schema=schema), str(folder), mode=mode)
        self.data = lance.dataset(str(folder))

    def epochs(self, seed: int) -> Epochs:
        orders = np.random.default_rng(seed)
        while True:
            yield self._pass(orders.permutation(self.rows))

    def _pass(self, order: NDArray[np.int64]) -> Iterator[Batch]:
        def take(rows: NDArray[np.int64]) -> Batch:
            table = self.data.take(rows.tolist())
            flat = table["x"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return table["i"].to_numpy(), flat.reshape(-1, *self.shape)

        yield from ahead(take, [order[i : i + BATCH] for i in range(0, len(order), BATCH)], self)


class RayData:
    """Ray Data: Parquet, `iter_batches` with a local shuffle buffer."""

    def __init__(self, folder: Path, source: Path, workers: int) -> None:
        import pyarrow
        import pyarrow.parquet
        import ray

        folder.mkdir()
        features = np.load(source, mmap_mode="r")
        self.folder, self.shape = folder, features.shape[1:]
        for first in range(0, len(features), 64):
            part = np.array(features[first : first + 64])
            table = pyarrow.table({
                "i": pyarrow.array(range(first, first + len(part))),
                "x": pyarrow.array([image.tobytes() for image in part], pyarrow.binary()),
            })  # fmt: skip
            pyarrow.parquet.write_table(
                table, folder / f"{first:08d}.parquet", compression="none", row_group_size=BATCH,
                use_dictionary=False,
            )  # fmt: skip
        # What Ray reads ahead of a timed batch is bounded by its object store.
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False,
                 object_store_memory=300 << 20)  # fmt: skip
        ray.data.DataContext.get_current().enable_progress_bars = False

    def epochs(self, seed: int, passes: int = PASSES) -> Epochs:
        import ray

        files = [str(path) for path in sorted(self.folder.glob("*.parquet"))]
        while True:
            data = ray.data.read_parquet(files * passes, shuffle="files")
            yield self._batches(data, seed)

    def once(self) -> Iterable[Batch]:
        return next(self.epochs(0, 1))

    def _batches(self, data: Any, seed: int) -> Iterator[Batch]:
        for batch in data.iter_batches(
            batch_size=BATCH, prefetch_batches=AHEAD,
            local_shuffle_buffer_size=BUFFER, local_shuffle_seed=seed,
        ):  # fmt: skip
            rows = [np.frombuffer(row, np.float16).reshape(self.shape) for row in batch["x"]]
            yield batch["i"], np.stack(rows)


LOADERS: dict[str, Any] = {
    "litdata": LitData,
    "mosaicml": MosaicML,
    "webdataset": WebDataset,
    "lance": Lance,
    "ray": RayData,
}


def ahead(make: Callable[[Any], Batch], parts: list[Any], loader: Any) -> Iterator[Batch]:
    """`make` of each part, in threads, a few batches ahead."""
    with ThreadPoolExecutor(loader.workers) as pool:
        waiting: deque[Any] = deque()
        for part in parts:
            waiting.append(pool.submit(make, part))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def digest(batches: Iterable[Batch]) -> str:
    """Of the rows by number; a row that comes twice counts twice."""
    rows = []
    for numbers, images in batches:
        for number, image in zip(numbers, images, strict=True):
            data = np.ascontiguousarray(image)
            rows.append((int(number), str(data.dtype), hashlib.blake2b(data.data).hexdigest()))
    return hashlib.blake2b(json.dumps(sorted(rows)).encode()).hexdigest()


class CpuClock:
    """CPU seconds of this process and those below it, ended ones included; it never goes back.

    What ended counts by its parent's sum over its children; where the parent keeps none (Ray's
    raylet), by what it had used when it was last seen.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, float, float]] = {}
        self._lost = 0.0

    def __call__(self) -> float:
        """The seconds until now."""
        now = self.processes()
        ended: defaultdict[int, float] = defaultdict(float)
        for pid in self._last.keys() - now.keys():
            parent, own, below = self._last[pid]
            ended[parent] += own + below
        for parent, seconds in ended.items():
            summed = now[parent][2] - self._last[parent][2] if parent in now else 0.0
            self._lost += max(0.0, seconds - summed)
        self._last = now
        return self._lost + sum(own + below for _, own, below in now.values())

    def processes(self) -> dict[int, tuple[int, float, float]]:
        """By process id: its parent, CPU seconds of its own, and of its children that ended."""
        import psutil

        me, found = psutil.Process(), {}
        for one in [me, *me.children(recursive=True)]:
            with suppress(psutil.Error):
                times = one.cpu_times()
                below = times.children_user + times.children_system
                found[one.pid] = one.ppid(), times.user + times.system, below
        return found


def measure(
    epochs: Epochs, rows: int, seconds: float, cpu_seconds: Callable[[], float]
) -> dict[str, float]:
    """Rate and CPU over whole iterations of `rows` at least, until `seconds` of them are timed."""
    images, wall, cpu = 0, 0.0, 0.0
    for batches in epochs:
        iterator = iter(batches)
        for _ in range(min(START, rows // BATCH // 4)):
            next(iterator)
        began, busy = time.perf_counter(), cpu_seconds()
        done = 0.0
        for numbers, _ in iterator:
            images += len(numbers)
            done = time.perf_counter() - began
        cpu += cpu_seconds() - busy
        wall += done
        if wall >= seconds:
            break
    return {"rate": images / wall, "cpu": 1000 * cpu / images}


def measure_pass(
    batches: Callable[[], Iterable[Batch]], cpu_seconds: Callable[[], float]
) -> dict[str, float]:
    """Seconds of one pass, opening included, and until its first batch; the same of CPU."""
    opened, busy = time.perf_counter(), cpu_seconds()
    iterator = iter(batches())
    next(iterator)
    first, first_cpu = time.perf_counter() - opened, cpu_seconds() - busy
    for _ in iterator:
        pass
    wall, cpu = time.perf_counter() - opened, cpu_seconds() - busy
    return {"first": first, "first_cpu": first_cpu, "wall": wall, "cpu": cpu}


def measure_remote(
    batches: Callable[[], Iterable[Batch]], rows: int, cpu_seconds: Callable[[], float]
) -> dict[str, float]:
    """Rate and CPU of a pass without its start-up, which a pass over the same local files shows.

    The first batch is no border: where it needs rows of all files, all are fetched before it.
    """
    cold = measure_pass(batches, cpu_seconds)
    gc.collect()  # a loader that lives still holds the local folder
    start = measure_pass(batches, cpu_seconds)
    rate = rows / (cold["wall"] - start["first"])
    cpu = 1000 * (cold["cpu"] - start["first_cpu"]) / rows
    return {"first": cold["first"], "rate": rate, "cpu": cpu}


def main(name: str, folder: str, source: str, workers: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the loader prints is no answer
    rows = len(np.load(source, mmap_mode="r"))
    loader = LOADERS[name](Path(folder), Path(source), int(workers))
    answer: dict[str, Any]
    for line in sys.stdin:
        request = json.loads(line)
        seed = request.get("seed", 0)
        if "local" in request:
            once = partial(loader.remote, request["remote"], request["local"], seed)
            check = "check" in request
            answer = {"digest": digest(once())} if check else measure_remote(once, rows, CpuClock())
        elif "check" in request:
            whole = loader.once() if hasattr(loader, "once") else next(loader.epochs(0))
            answer = {"digest": digest(whole)}
        elif "seconds" in request:
            answer = measure(loader.epochs(seed), rows, request["seconds"], CpuClock())
        else:
            answer = {"rows": rows}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
