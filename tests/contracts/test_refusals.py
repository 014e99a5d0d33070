"""What is not there or mistyped is told before PyTorch is imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

# Every command in a child of its own, forked once the command line is imported.
REFUSED = """
import json, os, sys
from svp.cli import main
from svp.pipeline.cache import reader
from svp.train.evaluation import named_model, results
from svp.train.runs import newest_cache, questions
for words in json.loads(sys.argv[1]):
    if os.fork() == 0:
        try:
            main(words.split(), prog_name="svp")
        except SystemExit as error:
            heavy = [m for m in ("torch", "transformers", "gradio", "matplotlib") if m in sys.modules]
            print(json.dumps([words, error.code, heavy]), flush=True)
        finally:
            os._exit(0)
    os.wait()
"""
CASES = [
    ("predict none.jpg cup", 3, "none.jpg: no such photograph"),
    ("predict photo.png", 2, "give at least one expression: svp predict PHOTO"),
    ("predict none.jsonl", 3, "none.jsonl: no such file"),
    ("predict photo.png cup", 3, "--published GLaMM-RefSeg"),
    ("predict photo.png cup --published none", 3, "--published none: no such folder"),
    ("predict photo.png cup --published a --checkpoint b", 2, "name two models"),
    ("predict photo.png cup --checkpoint missing", 3, "missing: no such run folder"),
    ("demo --runs nowhere", 3, "no trained model in nowhere"),
    ("eval --runs emptied", 3, "no trained model in emptied"),
    ("eval --checkpoint tiny --from-cache gone", 3, "gone: no such cache"),
    ("eval --checkpoint tiny --from-cache fled --split testA", 3, "--split testA` (generated"),
    ("export out --runs void", 3, "no trained model in void"),
    ("train", 2, "no cache to train on"),
    ("train --from-cache lost", 3, "lost: no such cache"),
    ("train --from-cache", 3, "no complete cache of split train in caches"),
    ("train --from-cache lost --set run.often=1", 2, "run.often"),
    ("train --from-cache away --dry-run", 3, "away: no such cache"),
    ("cache stats absent", 3, "absent/plan.json"),
    ("cache stats off --budget", 3, "off/plan.json"),
    ("cache order elsewhere", 3, "elsewhere/plan.json"),
    ("status wanted", 3, "wanted"),
    ("compare one two", 3, "one: no results"),
    ("figures unknown", 3, "unknown: no such run folder"),
    ("answers unseen --to coco --out out", 3, "unseen: no answers there"),
]


def test_a_refusal_imports_no_pytorch(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    every = json.dumps([words for words, _, _ in CASES])
    found = subprocess.run(
        [sys.executable, "-c", REFUSED, every], cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = [json.loads(line) for line in found.stdout.splitlines()]
    assert told == [[words, code, []] for words, code, _ in CASES], found.stderr
    for words, _, said in CASES:
        assert said in found.stderr, words
    assert "Traceback" not in found.stderr
