"""Script run inside the baseline's environment (see mosaic_baseline.py), without svp.

Arguments: folder for the MDS files, .npy of the features. Each line of its input asks for a round,
and gets one line of JSON: the rate of MosaicML's StreamingDataLoader with two worker processes and
batches of 16, start-up not counted.
"""

import json
import sys
import time

import numpy as np

BATCH, WORKERS, EPOCHS, START = 16, 2, 8, 6  # passes per round; batches that are not timed
NAME = "MosaicML StreamingDataLoader, features alone"


def main(folder: str, source: str) -> None:
    from streaming import (  # type: ignore[import-not-found]
        MDSWriter,
        StreamingDataLoader,
        StreamingDataset,
    )

    features = np.load(source)
    columns = {"x": "ndarray:float16:" + ",".join(map(str, features.shape[1:]))}
    with MDSWriter(out=folder, columns=columns, size_limit=1 << 26) as out:
        for image in features:
            out.write({"x": image})
    size = EPOCHS * len(features)
    del features
    for seed, _ in enumerate(sys.stdin):
        dataset = StreamingDataset(
            local=folder, shuffle=True, shuffle_seed=seed, batch_size=BATCH, epoch_size=size
        )
        loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS)
        start, seen = 0.0, 0
        for number, batch in enumerate(loader):
            if number == START:
                start = time.perf_counter()
            seen += len(batch["x"]) if number > START else 0
        rate = seen / (time.perf_counter() - start)
        print(json.dumps({NAME: {"shuffled": rate}}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
