"""Script run inside the baseline's environment (see baseline.py), without svp.

Arguments: folder for the MDS files, .npy of the features. Each line of its input asks for a round,
and gets one line of JSON: images per second by name and order.
"""

import json
import sys
import time

import numpy as np
from numpy.typing import NDArray


def main(folder: str, source: str) -> None:
    from streaming import MDSWriter, StreamingDataset

    features = np.load(source)
    columns = {"x": "ndarray:float16:" + ",".join(map(str, features.shape[1:]))}
    with MDSWriter(out=folder, columns=columns, size_limit=1 << 26) as out:
        for image in features:
            out.write({"x": image})
    images = len(features)
    del features
    shuffled = np.random.default_rng(0).permutation(images).tolist()
    orders: dict[str, list[int]] = {"seq": list(range(images)), "shuffled": shuffled}
    dataset = StreamingDataset(local=folder, remote=None, shuffle=False, batch_size=1)
    for _ in sys.stdin:
        rates = {}
        for order, rows in orders.items():
            start = time.perf_counter()
            for i in rows:
                touch(dataset[i]["x"])
            rates[order] = images / (time.perf_counter() - start)
        start = time.perf_counter()
        for sample in dataset:
            touch(sample["x"])
        iteration = {"seq": images / (time.perf_counter() - start)}
        answer = {"MosaicML ds[i]": rates, "MosaicML iteration": iteration}
        print(json.dumps(answer), flush=True)


def touch(image: NDArray[np.float16]) -> None:
    image.view(np.uint8).reshape(-1)[::4096].max()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
