"""Our models hold exactly the tensors of the published checkpoints: names, shapes, dtypes."""

from pathlib import Path

import pytest
import torch

from svp.pipeline.errors import WeightsError
from svp.pipeline.sam.build import build_sam, check_type, detect_type
from svp.pipeline.sam.mobile_sam import map_keys
from svp.pipeline.weights.key_report import TensorSpec, check_keys, expected_of

KEYS = Path(__file__).parents[2] / "fixtures" / "keys"
COUNTS = {"sam_vit_b": 314, "sam_vit_l": 482, "sam_vit_h": 594, "mobile_sam_vit_t": 439}


def read(name: str) -> dict[str, TensorSpec]:
    specs = {}
    for line in (KEYS / f"{name}.tsv").read_text().splitlines():
        key, dtype, shape = line.split("\t")
        sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
        specs[key] = TensorSpec(sizes, dtype)
    assert len(specs) == COUNTS[name]
    return specs


def meta_state(specs: dict[str, TensorSpec]) -> dict[str, torch.Tensor]:
    return {
        name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
        for name, spec in specs.items()
    }


@pytest.mark.parametrize("model", ["vit_b", "vit_l", "vit_h"])
def test_official_models_hold_exactly_the_published_tensors(model: str) -> None:
    published = read(f"sam_{model}")
    sam = build_sam(model)
    assert expected_of(sam) == published
    assert list(expected_of(sam)) == list(published)
    assert detect_type(meta_state(published)) == model
    # Non-persistent, so absent from every checkpoint: they must be real before loading.
    assert not sam.pixel_mean.is_meta
    assert not sam.pixel_std.is_meta


def test_key_report_counts() -> None:
    published = read("sam_vit_h")
    report = check_keys(meta_state(published), published)
    assert str(report) == "594/594 tensors, 0 missing, 0 unexpected"
    assert report.ok


def test_mobile_sam_maps_every_tensor() -> None:
    published = meta_state(read("mobile_sam_vit_t"))
    assert detect_type(published) == "vit_t"
    mapped, unused = map_keys(published)
    assert sorted(unused) == [
        "image_encoder.head.bias",
        "image_encoder.head.weight",
        "image_encoder.norm_head.bias",
        "image_encoder.norm_head.weight",
    ]
    report = check_keys(mapped, expected_of(build_sam("vit_t")), unused=unused)
    assert str(report) == "435/435 tensors, 0 missing, 0 unexpected, 4 unused"
    assert sum(name.endswith("num_batches_tracked") for name in mapped) == 27


def test_one_shared_decoder() -> None:
    tables = [read(name) for name in COUNTS]
    parts = [
        {k: v for k, v in table.items() if k.startswith(("mask_decoder.", "prompt_encoder."))}
        for table in tables
    ]
    assert all(part == parts[0] for part in parts)
    assert len(parts[0]) == 120 + 17


def test_a_checkpoint_of_another_type_is_named() -> None:
    with pytest.raises(
        WeightsError, match="holds SAM vit_l, the recipe says vit_b: set model=vit_l"
    ):
        check_type(meta_state(read("sam_vit_l")), "vit_b", "x.pth")
    check_type({"anything": torch.zeros(1)}, "vit_b", "x.pth")  # left to the key report
