"""Fusion: a weighted sum of SVPs over feature sources, with one SSPE (Table 7)."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from svp.model.projectors import MaskInput, build_projector
from svp.model.projectors.fusion import Fusion
from svp.pipeline.errors import ConfigError
from svp.train.bench.host_syncs import host_syncs

SVP: dict[str, Any] = {"sspe_dim": 16, "sspe_heads": 4, "ssa_heads": 4, "ssa_ffn": 24}
GRID = (2, 3)


def fusion(sources: int, **svp: Any) -> Fusion:
    torch.manual_seed(0)
    model = build_projector("fusion", in_dim=16, llm_dim=20, sources=sources, svp={**SVP, **svp})
    assert isinstance(model, Fusion)
    return model


def inputs(sources: int) -> dict[str, Any]:
    torch.manual_seed(1)
    masks = MaskInput(torch.rand(2, 3, 6), (torch.rand(2, 3, 4, 4) > 0.5).to(torch.uint8))
    valid = torch.tensor([[True, True, True], [True, False, False]])
    return {
        "patches": torch.randn(2, 6, 16),
        "grid": GRID,
        "multi": torch.randn(2, 6, sources * 16),
        "masks": masks,
        "mask_valid": valid,
    }


def test_is_the_weighted_sum_of_its_parts_with_the_shared_sspe() -> None:
    model, data = fusion(2), inputs(2)
    model.alpha.data = torch.tensor([0.3, -2.0])
    single = build_projector("svp", in_dim=16, llm_dim=20, **SVP)
    parts: list[Tensor] = []
    for k, weights in enumerate(model.parts):
        state = {**model.parts[0].state_dict(), **weights.state_dict()}  # the first one's SSPE
        single.load_state_dict(state)
        alone = {**data, "patches": data["multi"][:, :, 16 * k : 16 * (k + 1)]}
        parts.append(single(**alone)[0])
    torch.testing.assert_close(model(**data)[0], 0.3 * parts[0] - 2 * parts[1])


def test_starts_as_the_mean_and_has_one_sspe() -> None:
    model = fusion(4)
    assert model.alpha.tolist() == [0.25] * 4
    assert {name.split(".")[1] for name in model.state_dict() if ".sspe." in name} == {"0"}
    model(**inputs(4))[0].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_stages_reach_every_part() -> None:
    model, data = fusion(2), inputs(2)
    with_sspe = model(**data)[0]
    model.set_sspe(False)
    assert not any(part.add_sspe for part in model.parts)
    assert not torch.allclose(model(**data)[0], with_sspe)


def test_means_of_the_maps_serve_as_the_maps_do_without_ssa() -> None:
    model, data = fusion(2, ssa_variant="none"), inputs(2)
    share = data["masks"].cover * data["mask_valid"].unsqueeze(-1)
    share = share / share.sum(2, keepdim=True).clamp_min(1e-6)
    means = {"means": share @ data["patches"], "multi": share @ data["multi"]}
    torch.testing.assert_close(
        model(**{**data, **means, "patches": data["patches"][:, :0]})[0], model(**data)[0]
    )
    with pytest.raises(ConfigError, match="Fusion reads patch features"):
        fusion(2)(**{**data, **means})


def test_wrong_sources_are_refused() -> None:
    with pytest.raises(ConfigError, match="multi has 32 channels, not 48"):
        fusion(3)(**inputs(2))
    with pytest.raises(ConfigError, match="sources=0"):
        fusion(0)
    with pytest.raises(ConfigError, match="svp has no option queries"):
        fusion(2, queries=3)


def test_places_that_are_known_are_not_read_from_the_device() -> None:
    model, data = fusion(2), inputs(2)
    wanted, places = model(**data)[0], data["mask_valid"].flatten().nonzero().flatten()
    known = {**data, "masks": replace(data["masks"], real=places)}
    with host_syncs() as lines:
        found, _ = model(**known)
    assert not lines and torch.equal(found, wanted)
