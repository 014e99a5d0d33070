"""Runs inside the rival's environment (see mosaic.py): knows nothing of svp.

Arguments: folder for the MDS files, .npy of the features, repetitions. Prints one JSON line.
"""

import json
import sys
import time

import numpy as np
from numpy.typing import NDArray


def main(folder: str, source: str, reps: int) -> None:
    from streaming import MDSWriter, StreamingDataset  # type: ignore[import-not-found]

    features = np.load(source)
    columns = {"x": "ndarray:float16:" + ",".join(map(str, features.shape[1:]))}
    with MDSWriter(out=folder, columns=columns, size_limit=1 << 26) as out:
        for image in features:
            out.write({"x": image})
    images = len(features)
    del features
    shuffled = np.random.default_rng(0).permutation(images).tolist()
    orders: dict[str, list[int]] = {"seq": list(range(images)), "shuffled": shuffled}
    best = {"MosaicML ds[i]": {"seq": 0.0, "shuffled": 0.0}, "MosaicML iteration": {"seq": 0.0}}
    dataset = StreamingDataset(local=folder, remote=None, shuffle=False, batch_size=1)
    for _ in range(reps):
        for order, rows in orders.items():
            start = time.perf_counter()
            for i in rows:
                touch(dataset[i]["x"])
            keep(best["MosaicML ds[i]"], order, images / (time.perf_counter() - start))
        start = time.perf_counter()
        for sample in dataset:
            touch(sample["x"])
        keep(best["MosaicML iteration"], "seq", images / (time.perf_counter() - start))
    print(json.dumps(best))


def touch(image: NDArray[np.float16]) -> None:
    image.view(np.uint8).reshape(-1)[::4096].max()


def keep(best: dict[str, float], order: str, rate: float) -> None:
    best[order] = max(best[order], rate)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
