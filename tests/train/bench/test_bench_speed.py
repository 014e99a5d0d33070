"""The speed comparison: the cut step is the real step, nothing is counted twice, tables add up."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from svp.model.language.adapters import Lora, add_lora
from svp.model.losses import Weights
from svp.model.projectors import MaskInput, build_projector
from svp.pipeline.encoders.registry import family
from svp.pipeline.errors import ConfigError, SvpError
from svp.train.bench import speed
from svp.train.bench.components import (
    CAPTURED,
    Meter,
    borders,
    counts_of,
    forward,
    inside,
    train_batch,
)
from svp.train.bench.inputs import LiveEncoders, cached_batch
from svp.train.bench.memory import peak_memory
from svp.train.bench.models import build_llm, random_sam
from svp.train.bench.presets import PRESETS, Preset, preset
from svp.train.bench.report import Measured, SpeedReport
from svp.train.bench.runner import Case, Runner
from svp.train.estimates.flops import llm_flops, matrices, peak_flops

CPU = torch.device("cpu")
counts_attention = pytest.mark.skipif(
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry,
    reason="this torch does not count a CPU's attention",
)
MICRO = Preset(
    name="micro", hidden=64, layers=2, heads=4, intermediate=176, vocab=64, encoder="tiny",
    sam="tiny", points=8,
    dtype="float32", images=2, micro={"mlp": 1, "svp": 2}, photo=(120, 160),
)  # fmt: skip


def about(flops: float) -> Any:
    """Some versions of transformers multiply matrices for rotary positions."""
    return pytest.approx(flops, rel=1e-5)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield Runner(MICRO, ["mlp", "svp"], "cpu")
    torch.set_num_threads(threads)


def test_every_reading_belongs_to_the_part_that_made_it() -> None:
    ticks = iter([10.0, 11.0, 14.0, 14.5, 20.0])
    meter = Meter(lambda: next(ticks))
    meter.start()
    for part in ("a", "b", "a", "c"):
        meter.lap(part)
    assert meter.parts == {"a": 1.5, "b": 3.0, "c": 5.5}


@pytest.mark.parametrize("projector", ["mlp", "svp"])
def test_the_cut_step_has_the_gradients_of_the_uncut_one(runner: Runner, projector: str) -> None:
    runner.enter(1)
    model = runner.models[projector].eval()
    batch = cached_batch(MICRO, projector, 2, sentences=3).to("cpu", torch.float32)
    weights, counts = Weights(0.7, 2.0, 0.5), (50, 9)
    model(batch).total(weights, tokens=50, masks=9).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    wanted = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    model.zero_grad()
    train_batch(model, batch, lambda part: None, weights, counts)
    assert sum(float(g.abs().sum()) > 0 for g in wanted.values()) > 40
    for name, gradient in wanted.items():
        torch.testing.assert_close(trained[name].grad, gradient, rtol=1e-4, atol=1e-7, msg=name)
    assert not model.projector._forward_hooks
    model.zero_grad()


def test_operations_by_part_are_those_of_the_uncut_step(runner: Runner) -> None:
    runner.enter(1)
    model = runner.models["svp"]
    batch = cached_batch(MICRO, "svp", 2, sentences=3).to("cpu", torch.float32)
    with FlopCounterMode(display=False) as counter:
        model(batch).total(Weights()).backward()
        whole = counter.get_total_flops()
        meter = Meter(lambda: float(counter.get_total_flops()))
        meter.start()
        train_batch(model, batch, meter.lap, Weights(), counts_of([batch]))
    assert sum(meter.parts.values()) == whole
    assert set(meter.parts) == {"projector", "LLM", "mask decoder"}
    assert min(meter.parts.values()) > 0
    model.zero_grad()


@counts_attention
@pytest.mark.parametrize("rank", [0, 4])
def test_the_formula_is_what_torch_counts(rank: int) -> None:
    wide = replace(MICRO, hidden=256, heads=8, intermediate=688, vocab=512)
    lm = build_llm(wide, CPU).requires_grad_(False)
    if rank:
        add_lora(lm, Lora(rank=rank, dropout=0.0))
    lm.lm_head.requires_grad_(True)
    length, words, rows = 100, 24, 2
    embeds = torch.randn(rows, length, 256, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        states = lm.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        loss = lm.lm_head(states.flatten(0, 1)[:words]).sum()
        forward = counter.get_total_flops()
        loss.backward()
        both = counter.get_total_flops()
    assert llm_flops(lm, [length] * rows, words, training=False) == about(forward)
    again = flash_again([length] * rows) * wide.hidden // MICRO.hidden
    assert llm_flops(lm, [length] * rows, words, training=True) + again == about(both)
    assert again < 0.02 * both
    assert matrices(lm)[1] == sum(p.numel() for p in lm.parameters() if p.requires_grad) - 512 * 256


def test_the_paper_preset_is_llama_7b() -> None:
    with torch.device("meta"):
        lm = build_llm(replace(PRESETS["paper"], layers=1), torch.device("meta"))
    per_layer, _ = matrices(lm)
    embeddings = 2 * 32007 * 4096
    assert 32 * (per_layer + 2 * 4096) + embeddings + 4096 == 6_738_472_960


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_says_what_its_encoders_give(name: str) -> None:
    told = PRESETS[name]
    prompts = random_sam(told, torch.device("meta")).prompt_encoder
    assert (prompts.embed_dim, *prompts.image_embedding_size) == told.embedding
    kind = family(told.features)
    with torch.device("meta"):
        backbone = kind.adapt(kind.build())
    assert (backbone.dim, backbone.patch * told.grid) == (told.channels, told.view)


def test_live_inputs_have_the_shapes_of_cached_ones(runner: Runner) -> None:
    laps: list[str] = []
    live = LiveEncoders(MICRO, CPU, laps.append)
    cached = cached_batch(MICRO, "svp", 2, sentences=1)
    made = live.into(cached)
    for name in ("patches", "cover", "masks", "valid"):
        assert getattr(made.visual, name).shape == getattr(cached.visual, name).shape, name
    assert made.sam.shape == cached.sam.shape
    assert made.visual.cover is not None and cached.visual.cover is not None
    # The cells of both are the same up to the borders.
    torch.testing.assert_close(
        made.visual.cover.float().sum(2).sort().values,
        cached.visual.cover.float().sum(2).sort().values, rtol=0.1, atol=0.1,
    )  # fmt: skip
    assert laps == ["vision encoder", "superpixels", "SAM encoder", "superpixels"]
    laps.clear()
    assert live.into(cached_batch(MICRO, "mlp", 1, sentences=1)).visual.cover is None
    assert laps == ["vision encoder", "SAM encoder"]


def test_inference_tells_prefill_from_decode_and_ends_with_a_mask(runner: Runner) -> None:
    for model in runner.models.values():  # as before any stage
        model.requires_grad_(False).eval()
    case = Case("generate", "svp", live=False)
    runner.prepare(case)
    laps: list[str] = []
    assert runner.run(case, laps.append) == [40]
    projector = [f"projector/{part}" for part in ("SSPE", "SSA", "MLP", "MLP")]
    assert laps[:7] == ["copy", *projector, "LLM prefill", "LLM prefill"]
    assert laps[7:] == ["LLM decode"] * (2 * (MICRO.answer - 1)) + ["mask decoder"]
    counted, *_ = speed._counted(runner, case)
    assert counted["mask decoder"] > 0
    laps = []
    runner.run(Case("forward", "mlp", live=False), laps.append)
    assert laps == ["copy", "projector", "LLM", "mask decoder"]


def test_the_projector_s_parts_add_up_to_it(runner: Runner) -> None:
    """In one measurement, by operations: each module's own, and nothing beside the three."""
    for model in runner.models.values():
        model.requires_grad_(False).eval()
    batch = cached_batch(MICRO, "svp", 1, sentences=1).to("cpu", torch.float32)
    model = runner.models["svp"]
    own: dict[str, float] = {}
    with FlopCounterMode(display=False) as counter:
        hooks = []
        for part in ("sspe", "ssa", "mlp"):
            module = getattr(model.projector, part)
            started = partial(lambda name, *_: own.update({name: -count()}), part)
            ended = partial(lambda name, *_: own.update({name: own[name] + count()}), part)
            hooks += [module.register_forward_pre_hook(started)]
            hooks += [module.register_forward_hook(ended)]
        count = counter.get_total_flops
        forward(model, batch, lambda part: None)
        for hook in hooks:
            hook.remove()
    with FlopCounterMode(display=False) as counter:
        meter = Meter(lambda: float(counter.get_total_flops()))
        meter.start()
        forward(model, batch, meter.lap)
    assert sum(meter.inside.values()) == meter.parts["projector"]
    # Eq. 2 and the SSPE of the keys are matrix products inside the SSA's own forward pass.
    assert meter.inside == {part: own[part.lower()] for part in ("SSPE", "SSA", "MLP")}
    found = speed.measure(runner, [Case("forward", name, False) for name in ("mlp", "svp")], 3,
                          dict.fromkeys([Case("forward", n, False) for n in ("mlp", "svp")], 1))  # fmt: skip
    mlp, svp = found
    assert mlp.median_inside == {}
    for parts, whole in zip(svp.inside, svp.seconds, strict=True):
        assert set(parts) == {"SSPE", "SSA", "MLP"} and min(parts.values()) >= 0
        assert sum(parts.values()) == pytest.approx(whole["projector"])
    lines = SpeedReport(MICRO, "x", None, (*found,)).lines()
    assert any(re.fullmatch(r"\| of it SSPE, ms \| - \| \d+\.\d \|", line) for line in lines)


@pytest.mark.parametrize(("options", "parts"), [
    ({"sspe_variant": "none"}, ["SSA", "MLP"]),
    ({"ssa_variant": "none"}, ["SSPE", "pooling", "MLP"]),
    ({"sspe_variant": "none", "ssa_variant": "none"}, ["pooling", "MLP"]),
])  # fmt: skip
def test_a_variant_has_the_parts_it_is_made_of(options: dict[str, Any], parts: list[str]) -> None:
    sizes = {"sspe_dim": 8, "sspe_heads": 2, "sspe_ffn": 8, "ssa_heads": 2, "ssa_ffn": 8}
    projector = build_projector("svp", in_dim=8, llm_dim=8, **sizes, **options)
    masks = MaskInput(torch.ones(1, 2, 4), torch.ones(1, 2, 4, 4, dtype=torch.uint8))
    laps: list[str] = []
    with inside(projector, laps.append) as rest:
        projector(torch.ones(1, 4, 8), (2, 2), masks=masks, mask_valid=torch.ones(1, 2) > 0)
    assert laps == [f"projector/{part}" for part in parts] and rest == "projector/MLP"
    laps.clear()
    projector(torch.ones(1, 4, 8), (2, 2), masks=masks, mask_valid=torch.ones(1, 2) > 0)
    with inside(build_projector("mlp", in_dim=8, llm_dim=8), laps.append) as rest:
        assert rest == "projector"
    assert not laps, "hooks are gone"


def test_what_only_other_cases_need(runner: Runner) -> None:
    """Its complement is what a runner of this case alone holds."""
    runner.enter(1)
    svp = sum(p.nbytes for p in runner.models["svp"].projector.parameters())
    states = runner._optimizers["svp"].state.values()
    moments = sum(v.nbytes for state in states for v in state.values() if v.ndim)
    case = Case("train", "mlp", live=False, stage=1)
    counters = 4 * len(states)
    assert runner.foreign(case) == pytest.approx(svp + moments, abs=counters + 4096)
    runner.run(Case("forward", "mlp", live=True), lambda part: None)
    encoders = sum(p.nbytes for m in runner._live.modules for p in (*m.parameters(), *m.buffers()))
    assert runner.foreign(case) == pytest.approx(svp + moments + encoders, abs=counters + 4096)
    alone = runner.foreign(Case("forward", "mlp", live=True))
    assert alone == pytest.approx(svp + moments, abs=counters + 4096)


@counts_attention
def test_a_comparison_adds_up(runner: Runner) -> None:
    runner.enter(2)
    cached = [Case("train", name, False, 2) for name in ("mlp", "svp")]
    cases = [*cached, Case("train", "svp", True, 2)]
    found = speed.measure(runner, cases, 1, dict.fromkeys(cases, 10**9))
    assert [one.tokens for one in found] == [(256, 256), (40, 40), (40, 40)]
    parts = {"copy", "projector", "LLM", "mask decoder", "optimizer"}
    live = {"vision encoder", "SAM encoder", "superpixels"}
    assert [set(one.median) for one in found] == [parts, parts, parts | live]
    for one in found:
        assert set(one.predicted) == set(one.median) and min(one.predicted.values()) > 0
        length = 2 * [128 - 1 + one.tokens[0]]
        assert one.formula is not None and one.whole == sum(one.median.values())
        assert one.formula + flash_again(length) == about(one.flops["LLM"])
    report = SpeedReport(
        replace(MICRO, targets={"stage 2, from cache": 1e-3}), "x", None, (*found,)
    )
    text = "\n".join(report.lines())
    llm = rf"\| LLM, ms( \| {1e3 * found[0].median['LLM']:.1f} \({1e3 * found[0].predicted['LLM']:.1f}\))"
    assert re.search(llm, text)
    for wanted in ("| stage 2, one step | MLP from cache | SVP from cache | SVP live |",
                   "| visual tokens per image | 256 | 40 | 40 |", "2 P T",
                   "- target met: stage 2, from cache"):  # fmt: skip
        assert wanted in text
    assert report.exit_code == 0
    assert json.loads(json.dumps(report.to_json()))["ratios"].keys() == report.ratios().keys()


@pytest.mark.slow
def test_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "peak_memory", lambda preset, case, device: 10**9)
    trained = speed.bench_train(MICRO, repeats=2)
    assert len(trained.cases) == 8 and len(trained.ratios()) == 6
    inferred = speed.bench_infer(MICRO, repeats=2)
    assert len(inferred.cases) == 6 and len(inferred.ratios()) == 4
    assert any(line.startswith("| LLM decode per id, ms |") for line in inferred.lines())


def flash_again(lengths: list[int]) -> int:
    """What flash attention's backward pass computes twice; the formula does not count it."""
    return 2 * MICRO.layers * MICRO.hidden * sum(length**2 for length in lengths)


def fake(projector: str, live: bool, *runs: float) -> Measured:
    seconds = tuple({"LLM": run * 0.75, "projector": run * 0.25} for run in runs)
    return Measured(Case("forward", projector, live), seconds, {"LLM": 1.0}, None, (40, 44), 5)


def test_ratios_are_of_medians_and_a_missed_goal_fails() -> None:
    cases = (fake("mlp", False, 4, 9, 8), fake("svp", False, 2, 1, 5),
             fake("mlp", True, 12), fake("svp", True, 6))  # fmt: skip
    report = SpeedReport(replace(MICRO, targets={"forward, live": 2.5}), "x", 100.0, cases)
    assert report.ratios() == {
        "forward, from cache": 4.0, "forward, live": 2.0, "forward, SVP from cache, MLP live": 6.0,
    }  # fmt: skip
    assert report.exit_code == 1 and report.missed == ["forward, live"]
    lines = report.lines()
    assert "- TARGET MISSED: forward, live >= 2.5" in lines
    assert any(line.startswith("| model FLOPs utilisation | ") for line in lines)
    assert any("42.0 (40 to 44)" in line for line in lines)


def test_what_cannot_be_run_is_refused() -> None:
    for options in ({"repeats": 0}, {"device": "tpu"}, {"device": "cuda:9"}):
        with pytest.raises(ConfigError):
            speed.bench_infer(MICRO, **options)
    with pytest.raises(ConfigError, match="need one of cpu, paper"):
        preset("huge")
    with pytest.raises(ConfigError, match="layers=0"):
        preset("cpu", 0)
    assert preset("cpu", 3).layers == 3


def test_a_gpu_s_peak_is_looked_up_by_its_name() -> None:
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("one CPU thread") is None


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own() -> None:
    held = bytearray(3 * 10**9)  # ours: no part of the child's
    small = peak_memory(MICRO, Case("train", "mlp", False, 1), "cpu")
    large = peak_memory(replace(MICRO, vocab=100_000), Case("train", "mlp", False, 1), "cpu")
    assert small < len(held)
    # 100,000 rows of 64 in float32, in embedding and head: weight, gradient, two moments.
    assert large - small > 0.8 * 2 * 4 * 4 * 64 * 100_000
    with pytest.raises(SvpError, match="did not finish: .*tpu"):
        peak_memory(MICRO, Case("forward", "mlp", False), "tpu")


def test_hooks_are_gone_after_an_error(runner: Runner) -> None:
    model = runner.models["mlp"]
    with pytest.raises(RuntimeError), borders(model, lambda part: None):
        raise RuntimeError
    assert not model.projector._forward_hooks and not model.lm.lm_head._forward_hooks


@pytest.mark.parametrize(("name", "tokens"), [("pvtc", 16), ("qformer", None)])
def test_a_projector_beside_the_two(name: str, tokens: int | None) -> None:
    """Each gets the inputs it reads, and its own number of tokens."""
    both = Runner(MICRO, [name], "cpu")
    count = both.models[name].projector.num_tokens((16, 16))
    assert tokens in (None, count)
    assert both.run(Case("forward", name, False), lambda part: None) == [count]


def test_projectors_to_compare_are_checked_first() -> None:
    assert speed._names(("pvtc", "svp")) == ("mlp", "svp", "pvtc")
    with pytest.raises(ConfigError, match="projector mine: allowed are"):
        speed.bench_infer(MICRO, more=("mine",))


def test_a_captured_answer_is_measured_whole_and_predicted_without_launches() -> None:
    """On a CPU it is compiled to the same operators, and nothing is captured."""
    runner = Runner(MICRO, ["mlp", "svp"], "cpu")
    runner.answer()
    cases = [Case("captured", name, False) for name in ("mlp", "svp")]
    found = speed.measure(runner, cases, 1, dict.fromkeys(cases, 1))
    for one in found:
        assert set(one.median) == {"copy", CAPTURED} and one.formula is None
        assert one.predicted[CAPTURED] > 0 and one.model_flops > 0
    lines = "\n".join(SpeedReport(MICRO, "x", None, tuple(found)).lines())
    assert "captured answer, ms" in lines and "- captured, from cache: MLP / SVP" in lines
