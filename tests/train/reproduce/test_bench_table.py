"""Table 6's ratios: our bench's stage 2 and live inference beside the paper's."""

from typing import Any

import pytest

from svp.train.bench.presets import PRESETS
from svp.train.bench.report import Measured, SpeedReport
from svp.train.bench.runner import Case
from svp.train.reproduce import collect


def report(*cases: tuple[Case, float, int]) -> SpeedReport:
    made = tuple(Measured(c, ({"LLM": s},), {"LLM": 1.0}, None, (40,), m) for c, s, m in cases)
    return SpeedReport(PRESETS["cpu"], "test", None, made)


def test_ratios_are_of_the_right_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    train = report(
        (Case("train", "mlp", False, 1), 9.0, 9), (Case("train", "svp", False, 1), 1.0, 1),
        (Case("train", "mlp", False, 2), 8.0, 300), (Case("train", "svp", False, 2), 2.0, 200),
        (Case("train", "mlp", True, 2), 7.0, 7), (Case("train", "svp", True, 2), 1.0, 1),
    )  # fmt: skip
    infer = report(
        (Case("forward", "mlp", False), 5.0, 5), (Case("forward", "svp", False), 1.0, 1),
        (Case("forward", "mlp", True), 6.0, 50), (Case("forward", "svp", True), 4.0, 40),
        (Case("generate", "mlp", True), 3.0, 3), (Case("generate", "svp", True), 1.0, 1),
    )  # fmt: skip

    def given(found: SpeedReport) -> Any:
        return lambda shapes, device, repeats: found

    monkeypatch.setattr(collect, "bench_train", given(train))
    monkeypatch.setattr(collect, "bench_infer", given(infer))
    found = collect.measure(PRESETS["cpu"], "cpu")
    assert found.ratios == {
        "training time, encoders in the loop": 7.0, "training memory, encoders in the loop": 7.0,
        "training time, from cache": 4.0, "training memory, from cache": 1.5,
        "inference time": 1.5, "inference memory": 1.25,
    }  # fmt: skip
    assert found.paper["training time, encoders in the loop"] == pytest.approx(46.0 / 12.4)
    assert found.paper["inference time"] == pytest.approx(384 / 152)
    assert found.paper.keys() == {n for n in found.ratios if "from cache" not in n}
    assert set(collect.same_images(PRESETS["paper"]).micro.values()) == {6}
    assert len(found.train["cases"]) == 6  # type: ignore[arg-type]
