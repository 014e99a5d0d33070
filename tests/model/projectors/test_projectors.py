"""One suite for every projector: parity, counts, order, shapes, precision, names and errors.

A new projector is a line in `ROWS`. Numbers of the originals: tests/fixtures/projectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svp.model.batch import Visual
from svp.model.projectors import PROJECTORS, MaskInput, Projector, build_projector
from svp.pipeline.errors import ConfigError, WeightsError

Load = Callable[[str], Any]  # the fixture `parity`
C, D = 32, 48
GRID = (4, 8)  # not square: the originals cannot do this


@dataclass(frozen=True)
class Row:
    """A projector: its original's case, its size at 1024 -> 4096, and options for both."""

    name: str
    parameters: int
    tokens: int = 36  # of a 24x24 grid with the default options
    case: str | None = None
    grid: tuple[int, int] = (12, 12)
    options: dict[str, Any] = field(default_factory=dict)
    llm_dim: int = D
    small: dict[str, Any] = field(default_factory=dict)  # for GRID
    with_cls: bool = False  # the case's input has a CLS token in front

    def __str__(self) -> str:
        return self.name

    def original(self) -> Projector:
        """As the case was made, in eval mode."""
        made = build_projector(
            self.name, in_dim=C, llm_dim=self.llm_dim, grid=self.grid, **self.options
        )
        return made.train(False)

    def tiny(self, **changes: Any) -> Projector:
        """At a size that runs at once, for GRID, in eval mode."""
        torch.manual_seed(0)
        options = {**self.small, **changes}
        return build_projector(self.name, in_dim=C, llm_dim=D, grid=GRID, **options).train(False)


POOL = {"out_grid": (2, 4)}
WINDOW = {"r": 2}
CABS = {"hidden": 32, "depth": 2}
DABS = {"d_model": 32, "layers": 2, "ffn": 64}
NARROW = {"embed_dim": 32, "heads": 4}
BERT = {"hidden": 48, "layers": 3, "heads": 4, "ffn": 96}
SVP = {"sspe_dim": 16, "sspe_heads": 4, "ssa_heads": 4, "ssa_ffn": 64, "mlp_hidden": 64}
ROWS = [
    Row("mlp", 20_979_712, 576, "mlp2x_gelu"),
    Row(
        "pixel_shuffle",
        83_927_040,
        case="pixel_shuffle_r2_12",
        options=WINDOW,
        small=WINDOW,
        with_cls=True,
    ),
    Row(
        "c_abstractor",
        37_398_016,
        case="cabs_12_to_5",
        options={"hidden": 32, "out_grid": (5, 5)},
        small=CABS | POOL,
    ),
    Row(
        "d_abstractor",
        55_833_224,
        case="dabs_12_to_4_none",
        options={"d_model": 32, "layers": 3, "ffn": 64, "out_grid": (4, 4), "pooled": "none"},
        small=DABS | POOL,
    ),
    Row("deco", 20_979_712, case="deco_12_to_5", options={"out_grid": (5, 5)}, small=POOL),
    Row(
        "ldpv2",
        21_020_672,
        case="ldpv2_24_to_7",
        grid=(24, 24),
        options={"out_grid": (7, 7)},
        small=POOL,
    ),
    Row(
        "tokenpacker",
        36_722_688,
        case="tokenpacker_sf2_12",
        options={"embed_dim": 32, **WINDOW},
        small={"embed_dim": 32, **WINDOW},
    ),
    Row("pvtc", 612_558_848, case="pvtc_r2_12", options=WINDOW, small=WINDOW, with_cls=True),
    Row(
        "qformer",
        104_779_264,
        40,
        case="qformer_hf_blip2",
        options={"hidden": 48, "layers": 4, "heads": 4, "ffn": 96},
        llm_dim=64,
        small=BERT | {"tokens": 8},
    ),
    Row("svp", 52_373_376, 0, small=SVP),
    Row(
        "divt",
        31_021_056,
        0,
        case="divt_065_12",
        options=NARROW,
        small=NARROW,
    ),
    Row("tome", 20_979_712, small={"tokens": 8}),
    Row("divprune", 20_979_712, small={"tokens": 8}),
    Row("random_patches", 20_979_712, small={"tokens": 8}),
    Row("payn", 20_979_712, small={"tokens": 8}),
    Row(
        "mqt",
        8_660_992,
        256,
        case="mqt_6_of_16_12",
        options={"side": 4, "heads": 4, "tokens": 6},
        small={"side": 4, "heads": 4},
    ),
    Row("m3", 20_979_712, 576, small={"sides": (1, 2, 4)}),
    Row("adatok", 20_979_712, 0),
]
all_rows = pytest.mark.parametrize("row", ROWS, ids=str)
originals = pytest.mark.parametrize("row", [row for row in ROWS if row.case], ids=str)
BY_PATCHES = ("divt", "tome", "divprune", "patches", "payn", "mqt")
NO_WINDOW = ("svp", "qformer", "abstractor", "adatok", *BY_PATCHES)  # a token may read anywhere
with_grid = pytest.mark.parametrize("row", [r for r in ROWS if r.tokens], ids=str)


def inputs(grid: tuple[int, int] = GRID, batch: int = 2) -> dict[str, Any]:
    """Everything any projector may need, as keyword arguments."""
    p = grid[0] * grid[1]
    torch.manual_seed(7)
    small = (torch.rand(batch, 3, 8, 8) > 0.5).to(torch.uint8)
    return {
        "patches": torch.randn(batch, p, C),
        "grid": grid,
        "cls": torch.randn(batch, C),
        "multi": torch.randn(batch, p, 4 * C),
        "masks": MaskInput(torch.rand(batch, 3, p), small),
        "mask_valid": torch.ones(batch, 3, dtype=torch.bool),
    }


def test_every_projector_has_a_row() -> None:
    """`fusion` is several SVPs and has its own file."""
    assert {row.name for row in ROWS} == set(PROJECTORS) - {"fusion"}


@originals
def test_equals_the_original(row: Row, parity: Load) -> None:
    """Values, input gradients and the norms of all parameter gradients."""
    assert row.case
    case, module = parity(row.case), row.original()
    named = type(module).from_original(case.state)
    module.load_state_dict(named, strict=True)
    leaves = {name: x.clone().requires_grad_() for name, x in case.input.items()}
    tokens, valid = module(**_arguments(row, leaves))
    torch.testing.assert_close(tokens, case.output["out"], atol=1e-5, rtol=0)
    assert torch.equal(valid, case.output["out"].abs().sum(2) > 0)  # 0 on padding
    (tokens * case.probe).sum().backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, case.grad_input[name], atol=1e-4, rtol=0)
    published = {id(value): key for key, value in case.state.items()}
    case.check_gradients(module, {new: published[id(v)] for new, v in named.items()}, 1e-4)


def _arguments(row: Row, leaves: dict[str, Tensor]) -> dict[str, Any]:
    if not row.with_cls:
        return {"patches": leaves["x"], "grid": row.grid, "multi": leaves.get("x_multi")}
    both = leaves["tokens_with_cls"]
    return {"patches": both[:, 1:], "grid": row.grid, "cls": both[:, 0]}


@all_rows
def test_parameters_and_tokens_at_paper_size(row: Row) -> None:
    with torch.device("meta"):
        module = build_projector(row.name, in_dim=1024, llm_dim=4096, grid=(24, 24))
    assert sum(p.numel() for p in module.parameters()) == row.parameters
    assert module.num_tokens((24, 24)) == (row.tokens or None)


@with_grid
def test_num_tokens_is_what_comes_out(row: Row) -> None:
    module = row.tiny()
    tokens, valid = module(**inputs())
    assert tokens.shape == (2, module.num_tokens(GRID), D) and bool(valid.all())


@all_rows
def test_inputs_stay_and_images_do_not_mix(row: Row) -> None:
    module, data = row.tiny(), inputs()
    before = {k: v.clone() for k, v in data.items() if isinstance(v, Tensor)}
    both = module(**data)[0]
    assert all(torch.equal(data[k], v) for k, v in before.items())
    one = {k: v[1:] if isinstance(v, Tensor) else v for k, v in data.items()}
    one["masks"] = MaskInput(data["masks"].cover[1:], data["masks"].small[1:])
    alone = module(**one)[0]
    rest = both[1:, alone.shape[1] :]  # padding, where the other image has more tokens
    torch.testing.assert_close(alone, both[1:, : alone.shape[1]], atol=1e-5, rtol=0)
    assert not rest.any()


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.name.split("_")[-1] not in NO_WINDOW], ids=str
)
def test_tokens_are_in_raster_order(row: Row) -> None:
    """A change in the last patch of the first row reaches the last token of the first row."""
    module, data = row.tiny(), inputs(batch=1)
    changed = {**data, "patches": data["patches"].clone(), "multi": data["multi"].clone()}
    for name in ("patches", "multi"):
        changed[name][0, GRID[1] - 1] += 20
    moved = (module(**data)[0] - module(**changed)[0])[0].norm(dim=1)
    rows = {"mlp": 4, "m3": 4}.get(row.name, 2)
    columns = len(moved) // rows
    assert int(moved.argmax()) == columns - 1


@all_rows
def test_runs_in_bfloat16_and_under_autocast(row: Row) -> None:
    module, data = row.tiny(), inputs()
    want = module(**data)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(**data)[0]
    pure = module.to(torch.bfloat16)(**data)[0]
    assert pure.dtype == torch.bfloat16
    for got in (mixed, pure):
        assert (got.float() - want).norm() < 0.05 * want.norm()


@all_rows
def test_every_parameter_learns(row: Row) -> None:
    module = row.tiny().train()
    module(**inputs())[0].square().sum().backward()
    silent = [name for name, p in module.named_parameters() if p.grad is None]
    assert not silent


@all_rows
def test_patches_must_fit_the_grid(row: Row) -> None:
    with pytest.raises(ConfigError, match=r"patches \(32, 32\) do not fit grid 4x9 x 32"):
        row.tiny()(**{**inputs(), "grid": (4, 9)})


@pytest.mark.parametrize("row", [row for row in ROWS if PROJECTORS[row.name].needs], ids=str)
def test_a_missing_input_is_named(row: Row) -> None:
    [need] = PROJECTORS[row.name].needs
    with pytest.raises(ConfigError, match=f"needs {need}: the cache or caller gives none"):
        row.tiny()(**{**inputs(), need: None})


@pytest.mark.parametrize("name", ["pixel_shuffle", "tokenpacker", "pvtc"])
def test_windows_must_divide_the_grid(name: str) -> None:
    with pytest.raises(ConfigError, match="windows of side 3 do not divide the 4x8 patch grid"):
        build_projector(name, in_dim=C, llm_dim=D, grid=GRID, r=3)(**inputs())


@pytest.mark.parametrize("name", ["c_abstractor", "d_abstractor", "pvtc"])
def test_tables_are_tied_to_their_grid(name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    with pytest.raises(ConfigError, match=f"{name} was built for a 4x8 patch grid, not 8x4"):
        row.tiny()(**inputs((8, 4)))


@pytest.mark.parametrize("name", ["pixel_shuffle", "tokenpacker", "pvtc"])
def test_windows_of_a_wide_grid_are_those_of_its_halves(name: str) -> None:
    """Cropping by hand: the left 4x4 of a 4x8 grid gives the left tokens."""
    row = next(row for row in ROWS if row.name == name)
    wide, data = row.tiny(), inputs()
    square = build_projector(name, in_dim=C, llm_dim=D, grid=(4, 4), **row.small).train(False)
    state = {k: v[:, :, :2] if k == "cls_scale" else v for k, v in wide.state_dict().items()}
    square.load_state_dict(state)
    left = {k: data[k].view(2, 4, 8, -1)[:, :, :4].reshape(2, 16, -1) for k in ("patches", "multi")}
    got = square(left["patches"], (4, 4), multi=left["multi"], cls=data["cls"])[0]
    want = wide(**data)[0].view(2, 2, 4, D)[:, :, :2].reshape(2, 4, D)
    if name == "tokenpacker":  # bilinear at r = 2 reads inside its window only
        assert row.small["r"] == 2
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@originals
def test_published_prefixes_are_stripped_and_unknown_names_listed(row: Row, parity: Load) -> None:
    assert row.case
    kind, state = PROJECTORS[row.name], parity(row.case).state
    bare = kind.from_original(state)
    for prefix in kind.prefixes:
        under = kind.from_original({prefix + k: v for k, v in state.items()})
        assert under.keys() == bare.keys()
    with pytest.raises(WeightsError, match=r"knows no weights named text_hidden_fcs\.0\.weight"):
        kind.from_original({**state, "text_hidden_fcs.0.weight": torch.zeros(1)})


@originals
def test_a_wrong_shape_shows_both_shapes(row: Row, parity: Load) -> None:
    assert row.case
    named = PROJECTORS[row.name].from_original(parity(row.case).state)
    key = next(iter(named))
    named[key] = torch.zeros(5, 7)
    with pytest.raises(RuntimeError, match=rf"(?s){key}.*\[5, 7\].*\[.*\]"):
        row.original().load_state_dict(named, strict=True)


def test_build_refuses_what_it_does_not_know() -> None:
    with pytest.raises(
        ConfigError, match="projector perceiver: allowed are adatok, c_abstractor, d_a"
    ):
        build_projector("perceiver", in_dim=C, llm_dim=D)
    with pytest.raises(ConfigError, match="projector deco has no option r; it has layers, out_gr"):
        build_projector("deco", in_dim=C, llm_dim=D, r=2)
    with pytest.raises(ConfigError, match="projector pvtc needs the patch grid"):
        build_projector("pvtc", in_dim=C, llm_dim=D)


def test_a_projector_from_outside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One class and one line make a projector; features come in the module's precision."""
    seen: list[Visual] = []

    class Mean(Projector):
        needs = frozenset({"cls"})

        def __init__(self, *, in_dim: int, llm_dim: int, bias: bool = True) -> None:
            super().__init__(in_dim=in_dim, llm_dim=llm_dim)
            self.linear = nn.Linear(in_dim, llm_dim, bias=bias)

        def num_tokens(self, grid: tuple[int, int]) -> int:
            return 1

        def project(self, x: Visual) -> Tensor:
            assert x.cls is not None
            seen.append(x)
            tokens: Tensor = self.linear(x.patches.mean(1) + x.cls).unsqueeze(1)
            return tokens

    monkeypatch.setitem(PROJECTORS, "mean", Mean)
    module = build_projector("mean", in_dim=C, llm_dim=D, grid=GRID, bias=False).to(torch.bfloat16)
    tokens, valid = module(**inputs())
    assert tokens.shape == (2, 1, D) and valid.tolist() == [[True], [True]]
    assert seen[0].patches.dtype == torch.bfloat16
    assert seen[0].cover is not None and seen[0].cover.dtype == torch.float32


@pytest.mark.gpu
@all_rows
def test_a_gpu_gives_what_the_cpu_gives(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32: tokens and the gradients of inputs and parameters. bfloat16: within its rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    module = row.tiny()
    tokens, gradients = _run(module, inputs(), "cpu")
    exact, exact_gradients = _run(module.cuda(), inputs(), "cuda")
    assert _drift(exact, tokens) < 1e-5
    assert gradients.keys() == exact_gradients.keys()
    drifts = {name: _drift(exact_gradients[name], gradients[name]) for name in gradients}
    assert max(drifts.values()) < 1e-4, drifts
    with torch.autocast("cuda", torch.bfloat16):
        half, half_gradients = _run(module, inputs(), "cuda")
    assert half.isfinite().all() and all(g.isfinite().all() for g in half_gradients.values())
    assert _drift(half.float(), tokens) < 0.03


def _run(module: Projector, data: dict[str, Any], device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Tokens, and gradients by name, on the CPU; `patches` are among them."""
    module.zero_grad()
    masks = data["masks"]
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in data.items()}
    moved["masks"] = MaskInput(masks.cover.to(device), masks.small.to(device))
    moved["patches"].requires_grad_()
    tokens, _ = module(**moved)
    (tokens.float() ** 2).mean().backward()
    found = {name: p.grad for name, p in module.named_parameters()} | {
        "patches": moved["patches"].grad
    }
    # Copies: a module that moves takes its gradients along.
    return tokens.detach().cpu(), {n: g.clone().cpu() for n, g in found.items() if g is not None}


def _drift(one: Tensor, other: Tensor) -> float:
    """Relative, of the whole; gradients of what cannot matter (a bias before a softmax) are noise."""
    scale = max(float(other.norm()), 1e-6 * other.numel() ** 0.5)
    return float((one - other).norm()) / scale
