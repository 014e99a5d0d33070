"""The rates bench: every part in every mode, and how far the modes are apart."""

import pytest

from svp.pipeline.bench.rates import run
from svp.pipeline.errors import ConfigError


def test_every_mode_of_every_part_is_timed_and_compared() -> None:
    report = run(images=2, prompts=4, repeats=1)
    assert [(rate.part, rate.mode) for rate in report.rates] == [
        ("tiny, 2 images", "float32"),
        ("tiny, 2 images", "bfloat16"),
        ("SAM tiny encoder, 1 image", "exact float32"),
        ("SAM tiny encoder, 1 image", "fast float32"),
        ("SAM tiny encoder, 1 image", "fast bfloat16"),
        ("its decoder, 4 prompts", "exact float32"),
        ("its decoder, 4 prompts", "fast float32"),
        ("its decoder, 4 prompts", "fast bfloat16"),
    ]
    for rate in report.rates:
        exact = rate.mode in ("float32", "exact float32")
        assert rate.seconds > 0 and rate.speed > 0 and rate.predicted > 0
        assert rate.away == 0 if exact else 0 < rate.away < 0.1
        assert "bfloat16" in rate.mode or rate.away < 1e-4
    assert len(report.lines()) == 4 + len(report.rates)


def test_a_device_that_is_not_there_is_refused() -> None:
    for device in ("tpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device={device}"):
            run(device)
