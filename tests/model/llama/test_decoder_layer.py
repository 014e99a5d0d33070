"""LLaMA's layer in few operators: transformers' layer with peft's adapters is the oracle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from support.micro_ris import SEG, SLOT, micro_batch, micro_config, micro_model
from svp.model.inference.generate import generate
from svp.model.inference.shared_prefix import predict_shared
from svp.model.language.adapters import LINEARS, Lora
from svp.model.llama.decoder_layer import GROUPS, groups_of, prepared, use_llama_layers
from svp.model.ris import RisModel
from svp.model.trainable import set_trainable
from svp.train.bench.launches import about_one_image
from svp.train.trainer.prepare import recompute

ROWS, LENGTH = 2, 7


def adapted(lora: Lora | None, dtype: torch.dtype = torch.float32, **changes: Any) -> RisModel:
    """A model whose adapters train, if it has any; its layers are frozen and of `dtype`."""
    model = micro_model(lora=lora, **changes)
    model.lm.to(dtype)
    set_trainable(model, ("projector", "lora") if lora else ("projector",))
    return model.train()


@contextmanager
def as_transformers(model: RisModel) -> Iterator[None]:
    """The layers are called as transformers and peft wrote them."""
    layers = model.lm.model.layers
    ours = type(layers[0])
    for layer in layers:
        assert type(layer) is ours is not LlamaDecoderLayer
        layer.__class__ = LlamaDecoderLayer
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = ours


def embeds(dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    made = torch.randn(ROWS, LENGTH, 32, generator=torch.Generator().manual_seed(1))
    return made.to(device, dtype).requires_grad_()


def run(model: RisModel, **options: Any) -> dict[str, Tensor]:
    """Hidden states, and the gradients of a weighted sum of them: of the input and all that trains."""
    model.zero_grad()
    norm = model.lm.model.norm.weight
    given = embeds(norm.dtype, norm.device)
    states = model.lm.model(inputs_embeds=given, use_cache=False, **options).last_hidden_state
    weights = torch.linspace(-1, 1, states.numel()).to(states).view_as(states)
    (states * weights).sum().backward()
    assert given.grad is not None
    found = {"states": states.detach(), "input": given.grad}
    return found | {n: p.grad for n, p in model.lm.named_parameters() if p.grad is not None}


class Masked(nn.Module):
    """Dropout with a mask that is given."""

    def __init__(self, mask: Tensor, p: float) -> None:
        super().__init__()
        self.mask, self.p = mask, p

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.view_as(x) / (1 - self.p)


def use_masks(model: RisModel, seed: int, p: float) -> None:
    """The masks that a pass after `manual_seed(seed)` draws, for peft's adapters."""
    torch.manual_seed(seed)
    for layer in model.lm.model.layers:
        for part, names in GROUPS:
            linears = [getattr(getattr(layer, part), name) for name in names]
            width = linears[0].base_layer.in_features
            ones = torch.ones(ROWS * LENGTH, width, dtype=linears[0].base_layer.weight.dtype)
            mask = torch.native_dropout(ones, p, True)[1]
            for linear in linears:
                linear.lora_dropout["default"] = Masked(mask, p)


def double_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' norm is float32 even in a model of float64."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.mark.parametrize("targets", [LINEARS, ("q_proj", "v_proj", "down_proj"), ("k_proj",), ()])
def test_values_and_gradients_are_those_of_transformers_and_peft(
    targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, without dropout."""
    double_norms(monkeypatch)
    model = adapted(Lora(4, 6, 0.0, targets) if targets else None).double()
    assert all(groups_of(layer) for layer in model.lm.model.layers)
    own = run(model)
    together = run(model, linears=prepared(model.lm))
    with as_transformers(model):
        wanted = run(model)
    assert own.keys() == wanted.keys()
    assert len(own) == 2 + 2 * 2 * len(targets)
    for name, value in wanted.items():
        assert torch.equal(own[name], together[name])
        torch.testing.assert_close(own[name], value, rtol=1e-11, atol=1e-12, msg=name)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.bfloat16, 0.03)])
def test_dropout_is_peft_s_with_one_mask_for_linears_that_share_their_input(
    dtype: torch.dtype, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the norm of each tensor. Adapters are float32 where layers are bfloat16."""
    p = 0.3
    model = adapted(Lora(4, 6, p), dtype)
    if dtype == torch.float64:
        double_norms(monkeypatch)
        model.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        torch.manual_seed(5)
        own = run(model, linears=prepared(model.lm))
        torch.manual_seed(6)
        other = run(model)
        use_masks(model, 5, p)
        with as_transformers(model):
            wanted = run(model)
    assert len(own) == 2 + 2 * 2 * 7
    for name, value in wanted.items():
        assert own[name].dtype == value.dtype
        size = float(value.norm())
        assert float((own[name] - value).norm()) <= error * size, name
        assert float((other[name] - value).norm()) > error * size, name


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_a_gpu_gives_what_the_cpu_gives(dtype: torch.dtype, error: float) -> None:
    """Without dropout, whose masks are the device's own; with it, the same masks twice."""
    model = adapted(Lora(4, 6, 0.0), dtype)
    wanted = run(model, linears=prepared(model.lm))
    model.cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        own = run(model, linears=prepared(model.lm))
    for name, value in wanted.items():
        assert own[name].dtype == value.dtype
        assert float((own[name].cpu() - value).norm()) <= error * float(value.norm()), name
    dropped, found = adapted(Lora(4, 6, 0.3), dtype).cuda(), []
    for again in (False, True):
        if again:
            recompute(dropped)
        torch.manual_seed(5)
        found.append(run(dropped, linears=prepared(dropped.lm)))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_gradient_checkpointing_draws_the_same_masks_again() -> None:
    model, found = adapted(Lora(4, 6, 0.3)), []
    for again in (False, True):
        if again:
            recompute(model)
        torch.manual_seed(5)
        found.append(run(model, linears=prepared(model.lm)))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_nothing_but_what_the_gradients_need_is_kept() -> None:
    """Of a layer: both norms' inputs, q, k, v, gate, up, masks, small products and the row sums."""
    model = adapted(Lora(4, 6, 0.3), torch.bfloat16)
    given, kept = embeds(torch.bfloat16), {}
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    rotary = model.lm.model.rotary_emb(given, torch.arange(LENGTH)[None])
    (layer, *_), (linears, *_) = model.lm.model.layers, prepared(model.lm) or ()
    known |= {x.untyped_storage().data_ptr() for x in rotary}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", torch.bfloat16),
    ):
        out = layer(given, position_embeddings=rotary, linears=[linears])
    assert out.requires_grad
    adapters = [x.adapters for x in linears if x.adapters]
    own = {x.untyped_storage().data_ptr() for a in adapters for x in (a.a, *a.b) if x is not None}
    found = sum(size for place, size in kept.items() if place not in known | own)
    numbers = 2 * 32 + 4 * 32 + 2 * 48 + 7 * 4  # of the layer, in bfloat16
    assert found == ROWS * LENGTH * (2 * numbers + 3 * 32 + 48 + 2 * 4)


def answers(model: RisModel) -> list[Tensor]:
    """Masks and ids of every way to ask."""
    batch = micro_batch((1, 1, 1))
    ids = batch.ids[:1].repeat(3, 1)
    ids[:, SLOT + 3] = torch.tensor([20, 21, 22])
    alike = {name: getattr(batch, name)[:1].repeat(3) for name in ("lengths", "seg_col")}
    shared = predict_shared(model, replace(about_one_image(batch), ids=ids, **alike))
    said = generate(model, batch, seg=SEG, eos=-1, max_new_tokens=6)
    return [*model.predict(batch), *shared, *said.masks, torch.tensor(said.ids)]


@pytest.mark.parametrize("lora", [None, Lora(4, 6, 0.3)])
def test_answers_are_those_of_transformers(lora: Lora | None) -> None:
    model = adapted(lora).eval()
    found = answers(model)
    with as_transformers(model):
        wanted = answers(model)
    for own, value in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, value, rtol=1e-4, atol=1e-5)


def trained(model: RisModel) -> None:
    model.lm.model.layers[0].mlp.up_proj.base_layer.weight.requires_grad_(True)


def norm_trained(model: RisModel) -> None:
    model.lm.model.layers[0].input_layernorm.weight.requires_grad_(True)


def hooked(model: RisModel) -> None:
    model.lm.model.layers[0].self_attn.k_proj.register_forward_hook(lambda *_: None)


def replaced(model: RisModel) -> None:
    linear = model.lm.model.layers[0].mlp.down_proj.base_layer
    linear.forward = lambda x: 2 * nn.Linear.forward(linear, x)


def merged(model: RisModel) -> None:
    model.lm.model.layers[0].self_attn.q_proj.merge()


def switched_off(model: RisModel) -> None:
    model.lm.model.layers[0].self_attn.q_proj.enable_adapters(False)


def rescaled(model: RisModel) -> None:
    model.lm.model.layers[0].self_attn.q_proj.scaling["default"] *= 3


def other_dropout(model: RisModel) -> None:
    model.lm.model.layers[0].self_attn.q_proj.lora_dropout["default"] = nn.AlphaDropout(0.0)


def eager(model: RisModel) -> None:
    model.lm.config._attn_implementation = "eager"


@pytest.mark.parametrize(
    "change",
    [trained, norm_trained, hooked, replaced, merged, switched_off, rescaled, other_dropout, eager],
)
def test_what_is_more_than_the_layer_is_called_as_transformers_wrote_it(
    change: Callable[[RisModel], None],
) -> None:
    """The first layer is; the second is ours, unless the change is the model's."""
    model = adapted(Lora(4, 6, 0.0))
    change(model)
    first, second = model.lm.model.layers
    assert groups_of(first) is None and (groups_of(second) is None) == (change is eager)
    assert prepared(model.lm) is None
    own = run(model)
    with as_transformers(model):
        wanted = run(model)
    assert own.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "options", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}]
)
def test_other_shapes_of_llama_are_called_as_transformers_wrote_them(
    options: dict[str, Any],
) -> None:
    lm = LlamaForCausalLM(micro_config(**options)).requires_grad_(False)
    use_llama_layers(lm)
    assert not any(groups_of(layer) for layer in lm.model.layers)


def test_layers_of_another_dtype_than_the_arithmetic_are_called_as_transformers_wrote_them() -> (
    None
):
    """float32 weights under autocast, which casts them."""
    model = adapted(Lora(4, 6, 0.0))
    with torch.autocast("cpu", torch.bfloat16):
        own = run(model, linears=prepared(model.lm))
        with as_transformers(model):
            wanted = run(model)
    assert all(torch.equal(value, wanted[name]) for name, value in own.items())


def test_grouped_queries_and_other_families() -> None:
    """Fewer heads of keys are LLaMA's, too; a model of another family is left alone."""
    lm = LlamaForCausalLM(micro_config(num_key_value_heads=1)).requires_grad_(False)
    ids = torch.arange(6)[None]
    wanted = lm(ids).logits
    use_llama_layers(lm)
    assert all(groups_of(layer) for layer in lm.model.layers)
    torch.testing.assert_close(lm(ids).logits, wanted, rtol=1e-5, atol=1e-6)

    other = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        )
    )  # fmt: skip
    classes = [type(module) for module in other.modules()]
    use_llama_layers(other)
    assert [type(module) for module in other.modules()] == classes
