"""What is particular to one projector: channel order, resizing, reference points, old files."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svp.model.projectors import PROJECTORS, Projector, build_projector
from svp.model.projectors.c_abstractor import CAbstractor
from svp.model.projectors.d_abstractor import DAbstractor, DeformableAttention, reference_points
from svp.model.projectors.grid import to_map, to_windows
from svp.model.projectors.pixel_shuffle import PixelShuffle
from svp.model.projectors.pvtc import PVTC, Block
from svp.model.projectors.qformer import QFormer
from svp.model.projectors.tokenpacker import TokenPacker
from svp.pipeline.errors import ConfigError


def made(name: str, grid: tuple[int, int] = (8, 8), **options: Any) -> Projector:
    torch.manual_seed(0)
    return build_projector(name, in_dim=16, llm_dim=32, grid=grid, **options).train(False)


def test_windows_put_the_channel_last(parity: Any) -> None:
    x = torch.arange(4 * 6 * 3.0).view(1, 24, 3)
    got = to_windows(x, (4, 6), 2).flatten(2)
    picture = x.view(4, 6, 3)
    want = torch.cat([picture[2 + a, 4 + b] for a in (0, 1) for b in (0, 1)])
    assert torch.equal(got[0, 5], want)
    case = parity("pixel_shuffle_r2_12")
    arange = torch.arange(12 * 12 * 32.0).view(1, 144, 32)
    assert torch.equal(
        to_windows(arange, (12, 12), 2).flatten(2), case.output["shuffled_arange"].flatten(1, 2)
    )
    assert not torch.equal(got, F.pixel_unshuffle(to_map(x, (4, 6)), 2).flatten(2).mT)


def test_pixel_shuffle_v1_transposes_the_tokens() -> None:
    new = made("pixel_shuffle", (4, 8), r=2)
    old = made("pixel_shuffle", (4, 8), r=2, ps_version="v1")
    assert isinstance(old, PixelShuffle)
    x = torch.randn(1, 32, 16)
    want = new(x, (4, 8))[0].view(1, 2, 4, 32).transpose(1, 2).flatten(1, 2)
    assert torch.equal(old(x, (4, 8))[0], want)


@pytest.mark.parametrize(("r", "inner"), [(2, [0, 1]), (3, [1]), (4, [1, 2])])
def test_tokenpackers_query_reads_the_middle_of_its_window(r: int, inner: list[int]) -> None:
    model = made("tokenpacker", (2 * r, 2 * r), r=r, embed_dim=16)
    assert isinstance(model, TokenPacker)
    x = torch.randn(1, 4 * r * r, 16)
    first = x.view(2 * r, 2 * r, 16)[:r, :r]
    want = torch.stack([first[a, b] for a in inner for b in inner]).mean(0)
    torch.testing.assert_close(model._coarse(x, (2 * r, 2 * r))[0, 0], want)


def test_pooling_bins_overlap_where_they_must() -> None:
    """24 -> 7: bins (0,4)(3,7)...; a token of DeCo reads its bin only."""
    model = made("deco", (24, 24), out_grid=(7, 7))
    x = torch.randn(1, 576, 16, requires_grad=True)
    model(x, (24, 24))[0][0, 8].sum().backward()  # row 1, column 1
    assert x.grad is not None
    read = x.grad.view(24, 24, 16).any(-1)
    assert read.any(1).nonzero().flatten().tolist() == [3, 4, 5, 6]
    assert read.any(0).nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_reference_points_reach_the_border() -> None:
    points = reference_points((24, 12), (6, 3))[0]
    assert points[0].tolist() == pytest.approx([0.5 / 12, 0.5 / 24])
    assert points[-1].tolist() == pytest.approx([11.5 / 12, 23.5 / 24])
    assert points[1, 1] == points[0, 1] and points[1, 0] > points[0, 0]  # x runs first


@pytest.mark.parametrize("init", ["deformable", "honeybee"])
def test_sampling_points_start_spread_or_on_the_reference(init: str) -> None:
    model = made("d_abstractor", d_model=16, layers=1, heads=8, ffn=32, init=init)
    [attn] = [m for m in model.modules() if isinstance(m, DeformableAttention)]
    bias = attn.sampling_offsets.bias.view(8, 4, 2)
    if init == "honeybee":
        assert not bias.any() and attn.sampling_offsets.weight.std() > 0.01
        return
    assert not attn.sampling_offsets.weight.any() and not attn.attention_weights.weight.any()
    torch.testing.assert_close(bias[0, 3], torch.tensor([4.0, 0.0]))  # head 0: along x
    torch.testing.assert_close(bias[1, 0], torch.tensor([1.0, 1.0]))  # head 1: the diagonal
    torch.testing.assert_close(bias[2, 1], torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("pooled", ["query", "tgt", "none"])
def test_d_abstractors_pooled_map_is_position_or_start(pooled: str) -> None:
    model = made("d_abstractor", d_model=16, layers=1, ffn=32, pooled=pooled, out_grid=(2, 2))
    assert isinstance(model, DAbstractor)
    values = torch.randn(2, 64, 16)
    t, pos = model._queries(values)
    mean = values.view(2, 2, 4, 2, 4, 16).mean((2, 4)).flatten(1, 2)
    for part, holds in ((pos, pooled == "query"), (t, pooled == "tgt")):
        assert torch.allclose(part, mean, atol=1e-6) is holds
    if pooled == "none":
        assert torch.equal(torch.cat([pos, t], 2)[0], model.query_position_embeddings.weight)


def test_d_abstractor_samples_in_float32() -> None:
    """In bfloat16 a sampling place would be known to 1/128 of the picture only."""
    kinds: list[torch.dtype] = []
    model = made("d_abstractor", d_model=16, layers=1, ffn=32).to(torch.bfloat16)
    original = F.grid_sample

    def spy(picture: Tensor, where: Tensor, **options: Any) -> Tensor:
        kinds.append(picture.dtype)
        kinds.append(where.dtype)
        return original(picture, where, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "grid_sample", spy)
        model(torch.randn(1, 64, 16), (8, 8))
    assert kinds == [torch.float32, torch.float32]


def test_d_abstractor_takes_newer_transformers_names() -> None:
    state = made("d_abstractor", d_model=16, layers=1, ffn=32).state_dict()
    renamed = {
        k.replace("out_proj", "o_proj").replace(".fc1", ".mlp.fc1").replace(".fc2", ".mlp.fc2"): v
        for k, v in state.items()
    }
    assert renamed.keys() != state.keys()
    assert DAbstractor.from_original(renamed).keys() == state.keys()


def test_c_abstractor_drops_the_class_row_of_old_files() -> None:
    table = torch.arange(65.0).view(1, 65, 1)
    got = CAbstractor.from_original({"abstractor.pos_emb": table})["pos_emb"]
    assert torch.equal(got, table[:, 1:])
    whole = torch.zeros(1, 64, 1)
    assert CAbstractor.from_original({"pos_emb": whole})["pos_emb"] is whole


def test_c_abstractor_of_depth_0_only_pools() -> None:
    model = made("c_abstractor", depth=0, pos_emb=False, mlp_depth=1, out_grid=(1, 1))
    assert isinstance(model, CAbstractor)
    x = torch.randn(2, 64, 16)
    want = model.readout(x.mean(1, keepdim=True))
    torch.testing.assert_close(model(x, (8, 8))[0], want, atol=1e-6, rtol=0)


def test_pvtc_width_is_a_reduction_with_its_own_output() -> None:
    model = made("pvtc", r=2, width=16)
    assert isinstance(model, PVTC)
    assert model(torch.randn(1, 64, 16), (8, 8), cls=torch.randn(1, 16))[0].shape == (1, 16, 32)
    assert isinstance(model.out, nn.Linear) and model.out.bias is None


def test_drop_path_drops_whole_windows_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = Block(dim=16, heads=4, drop_path=0.25).train()
    got = block._drop(torch.ones(50, 40, 16))
    assert sorted(set(got.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert bool((got == got[..., :1]).all()) and got.mean().item() == pytest.approx(1, abs=0.05)
    block.train(False)
    assert bool((block._drop(torch.ones(2, 2, 16)) == 1).all())


def test_qformer_loads_lavis_names_and_drops_what_it_has_not(parity: Any) -> None:
    state: dict[str, Tensor] = parity("qformer_hf_blip2").state
    lavis = {_lavis(k): v for k, v in state.items()}
    extra = [
        "Qformer.bert.embeddings.word_embeddings.weight",
        "Qformer.bert.embeddings.position_ids",
        "Qformer.bert.encoder.layer.0.intermediate.dense.weight",
        "Qformer.bert.encoder.layer.0.output.LayerNorm.bias",
        "Qformer.cls.predictions.bias",
        "visual_encoder.cls_token",
        "opt_model.lm_head.weight",
    ]
    lavis |= {key: torch.zeros(1) for key in extra}
    want, got = QFormer.from_original(state), QFormer.from_original(lavis)
    assert want.keys() == got.keys() and all(torch.equal(want[k], got[k]) for k in want)
    assert QFormer.from_original({"ln_vision.weight": torch.zeros(1)}).keys() == {
        "ln_vision.weight"
    }


def _lavis(key: str) -> str:
    for old, new in [
        ("qformer.layernorm", "Qformer.bert.embeddings.LayerNorm"),
        ("qformer.encoder", "Qformer.bert.encoder"),
        ("attention.attention.", "attention.self."),
        ("language_projection", "opt_proj"),
    ]:
        key = key.replace(old, new)
    return key


@pytest.mark.parametrize(
    ("name", "options", "weight", "std"),
    [
        ("c_abstractor", {"hidden": 64}, "readout.2.weight", 0.02),
        ("d_abstractor", {"d_model": 64}, "output_proj.weight", 0.02),
        ("tokenpacker", {"embed_dim": 64}, "attn.out_proj.weight", 0.02),
        ("tokenpacker", {"embed_dim": 64}, "attn.in_proj_weight", math.sqrt(2 / (4 * 64))),
        ("qformer", {"hidden": 48, "heads": 4}, "query_tokens", 0.02),
        ("pvtc", {}, "cls_scale", 1.0),
        ("mlp", {}, "mlp.0.weight", 1 / math.sqrt(3 * 16)),
    ],
)
def test_start_values(name: str, options: dict[str, Any], weight: str, std: float) -> None:
    value = made(name, **options).get_parameter(weight)
    assert value.std().item() == pytest.approx(std, rel=0.15)


def test_every_registered_name_is_its_files_class() -> None:
    assert all(
        kind.__module__ == f"svp.model.projectors.{name}" for name, kind in PROJECTORS.items()
    )


@pytest.mark.parametrize("value", [None, "x", -1, [], 10**12])
def test_options_that_no_projector_can_be_built_with_are_refused(value: object) -> None:
    """As a damaged config.json of an export or `--set model.projector.options.x` gives them."""
    with pytest.raises(ConfigError, match="projector svp cannot be built with .*mlp_hidden"):
        build_projector("svp", in_dim=16, llm_dim=8, mlp_hidden=value)
