"""A published folder answers as its authors' program does: the parts put together again, plainly.

The reference below uses transformers' CLIP and LLaMA, segment_anything's SAM and sentencepiece, and
nothing of this package but the names of the checkpoint's tensors.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from support.answered import masks
from svp.model.conversion.convert import _sam_under as sam_shapes
from svp.model.conversion.stand_in import write_standin
from svp.pipeline.datasets import open_dataset
from svp.pipeline.errors import (
    CacheError,
    ConfigError,
    ImageError,
    MissingError,
    PlanMismatchError,
    WeightsError,
)
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.masks import rle
from svp.pipeline.precompute.planner import Content
from svp.pipeline.precompute.run import RunOptions, precompute
from svp.train.evaluation.published_models import find_published
from svp.train.evaluation.results import Results, read_results
from svp.train.evaluation.unseen import Encoders, live_recipe
from svp.train.runs.evaluate import EvalRequest, eval_command
from svp.train.runs.inputs import DataRequest
from svp.train.runs.predict import PredictRequest, predict_command

sentencepiece = pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
Pixels = NDArray[np.uint8]
State = dict[str, Tensor]
TEXTS = ("the red cup", "left box")
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
ADDED = {
    "glamm": ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>"),
    "lisa": ("<im_patch>", "<im_start>", "<im_end>", "[SEG]"),
}
OPENING = {"glamm": " provides an overview of the picture.\n", "lisa": "\n "}
BEFORE = {"glamm": "USER: The", "lisa": "USER:"}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """CLIP-L of two blocks and SAM ViT-H of a narrow one: names, widths of CLIP and grids stay."""
    from segment_anything import sam_model_registry
    from segment_anything.build_sam import _build_sam

    build = partial(
        _build_sam,
        encoder_embed_dim=16,
        encoder_depth=1,
        encoder_num_heads=2,
        encoder_global_attn_indexes=[],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sam_model_registry, "vit_h", build)
        narrow = replace(SAMS["vit_h"], width=16, depth=1, heads=2, global_blocks=())
        patch.setitem(SAMS, "vit_h", narrow)
        for name in ("clip-large", "clip-large-336"):
            patch.setitem(ENCODERS, name, replace(ENCODERS[name], blocks=2))
        sam_shapes.cache_clear()
        yield
    sam_shapes.cache_clear()


class World:
    """Photographs with sentences, a published folder, CLIP and SAM in files."""

    def __init__(self, root: Path, layout: str) -> None:
        from segment_anything import sam_model_registry
        from transformers import CLIPVisionConfig, CLIPVisionModel

        self.root, self.layout = root, layout
        self.size = 336 if layout == "glamm" else 224
        torch.manual_seed(3)
        self.sam = sam_model_registry["vit_h"]().eval()
        torch.save(self.sam.state_dict(), root / "sam.pth")
        config = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16,
            image_size=self.size, patch_size=14, hidden_act="quick_gelu",
        )  # fmt: skip
        self.clip: Any = CLIPVisionModel(config).eval()
        self.clip.save_pretrained(root / "clip")
        self.folder = write_standin(root / f"{layout}-model", layout)
        self.state = self._in_float32()
        self.photos = {"a.png": self._photo("a.png", 90, 130, 1)}
        self.photos |= {"b.png": self._photo("b.png", 141, 100, 2)}
        square = [[10, 10, 60, 10, 60, 60, 10, 60]]
        rows = [
            {"image": name, "expression": text, "mask": square, "split": "val"}
            for name in ("a.png", "b.png")
            for text in TEXTS
        ]
        (root / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _in_float32(self) -> State:
        """The folder's tensors; its files rewritten in float32 with SAM's encoder in its shapes."""
        state: State = {}
        (sam,) = {n.split(".")[1] for n in self._names() if ".mask_decoder." in n}
        for path in sorted(self.folder.glob("*.bin")):
            part = {n: t.float() for n, t in torch.load(path).items() if "region" not in n}
            for name, value in self.sam.image_encoder.state_dict().items():
                if f"model.{sam}.image_encoder.{name}" in part:
                    part[f"model.{sam}.image_encoder.{name}"] = value + 0.01
            # The tiny LLaMA of the folder says little: a louder prompt makes masks of some form.
            part |= {n: 40 * t for n, t in part.items() if "text_hidden_fcs.0.2" in n}
            torch.save(part, path)
            state |= part
        index = {"metadata": {}, "weight_map": {}}
        for path in sorted(self.folder.glob("*.bin")):
            index["weight_map"] |= dict.fromkeys(torch.load(path), path.name)
        (self.folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return state

    def _names(self) -> list[str]:
        index = json.loads((self.folder / "pytorch_model.bin.index.json").read_text())
        return list(index["weight_map"])

    def _photo(self, name: str, height: int, width: int, seed: int) -> Pixels:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        made = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        made.save(self.root / name)
        return np.asarray(made)

    def request(self, **changes: Any) -> EvalRequest:
        options = {
            "published": str(self.folder), "data": DataRequest(dataset=str(self.root / "own.jsonl")),
            "sam_weights": self.root / "sam.pth", "encoder_weights": self.root / "clip",
            "runs": self.root / "runs", "device": "cpu",
        }  # fmt: skip
        return EvalRequest(**(options | changes))


@pytest.fixture(scope="module", params=["glamm", "lisa"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp(request.param), request.param)


def ids_of(world: World, text: str) -> list[int]:
    """The dialogue as the slow tokenizer of transformers 4.28 encoded it; -200 is the image."""
    words = sentencepiece.SentencePieceProcessor(model_file=str(world.folder / "tokenizer.model"))
    added = {token: 32_000 + n for n, token in enumerate(ADDED[world.layout])}
    question, answer = f"Please segment {text} in this image.", words.encode("It is")
    if world.layout == "lisa":
        question = f"What is {text} in this image? Please output segmentation mask."
        answer = []
    return [
        1,
        *words.encode(f"{SYSTEM} {BEFORE[world.layout]}"),
        added["<im_start>"],
        -200,
        added["<im_end>"],
        *words.encode(f"{OPENING[world.layout]}{question} ASSISTANT:".strip()),
        *answer,
        added["[SEG]"],
        *words.encode("."),
        2,
    ]


def part(state: State, middle: str) -> State:
    return {n.split(middle, 1)[1]: t for n, t in state.items() if middle in n}


@cache
@torch.no_grad()
def patches_of(world: World, name: str) -> Tensor:
    """(1,P,1024): CLIP's own preprocessing, state -2 without CLS, rounded as a cache keeps it."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    crop = {"height": world.size, "width": world.size}
    clip = CLIPImageProcessorPil(size={"shortest_edge": world.size}, crop_size=crop)
    seen = clip(world.photos[name], return_tensors="pt")["pixel_values"]
    states = world.clip(pixel_values=seen, output_hidden_states=True).hidden_states
    found: Tensor = states[-2][:, 1:].half().float()
    return found


@cache
@torch.no_grad()
def embedding_of(world: World, name: str, own_sam: bool) -> tuple[Tensor, tuple[int, int]]:
    """SAM's embedding (1,256,64,64) of a photograph, and the size it was resized to."""
    from segment_anything.utils.transforms import ResizeLongestSide

    sam, kept = world.sam, world.sam.image_encoder.state_dict()
    kept = {n: t.clone() for n, t in kept.items()}
    if own_sam:
        sam.image_encoder.load_state_dict(part(world.state, ".image_encoder."))
    small = ResizeLongestSide(1024).apply_image(world.photos[name])
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    found = sam.image_encoder(sam.preprocess(pixels)).half().float()
    sam.image_encoder.load_state_dict(kept)
    return found, small.shape[:2]


@torch.no_grad()
def reference(world: World, name: str, text: str, *, own_sam: bool = False) -> Tensor:
    """Logits (H,W) of one expression: GLaMM's forward pass, put together from the libraries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    state, raw = world.state, json.loads((world.folder / "config.json").read_text())
    patches, mm = patches_of(world, name), part(state, "model.mm_projector.")
    if world.layout == "lisa":
        visual = nn.functional.linear(patches, mm["weight"], mm["bias"])
    else:
        hidden = nn.functional.gelu(nn.functional.linear(patches, mm["0.weight"], mm["0.bias"]))
        visual = nn.functional.linear(hidden, mm["2.weight"], mm["2.bias"])

    wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
              "num_attention_heads", "num_key_value_heads", "rms_norm_eps",
              "max_position_embeddings")  # fmt: skip
    lm = LlamaForCausalLM(LlamaConfig(**{name: raw[name] for name in wanted})).eval()
    own = {n: t for n, t in state.items() if n.startswith(("model.layers", "model.embed"))}
    own |= {n: state[n] for n in ("model.norm.weight", "lm_head.weight")}
    lm.load_state_dict({n: t for n, t in own.items() if "inv_freq" not in n}, strict=True)
    ids = ids_of(world, text)
    at = ids.index(-200)
    embed = lm.get_input_embeddings()
    words = [embed(torch.tensor(piece)) for piece in (ids[:at], ids[at + 1 :])]
    states = lm.model(inputs_embeds=torch.cat([words[0], visual[0], words[1]])[None])
    seg = ids.index(32_004 if world.layout == "glamm" else 32_003) + visual.shape[1] - 1
    before = states.last_hidden_state[0, seg - 1]  # the state that predicts [SEG]
    fcs = part(state, "model.text_hidden_fcs.0.")
    hidden = nn.functional.linear(before, fcs["0.weight"], fcs["0.bias"]).relu()
    prompt = nn.functional.linear(hidden, fcs["2.weight"], fcs["2.bias"])

    sam = world.sam
    for piece in ("prompt_encoder", "mask_decoder"):
        getattr(sam, piece).load_state_dict(part(state, f".{piece}."))
    embedding, small = embedding_of(world, name, own_sam)
    dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 64, 64)
    low, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=prompt[None, None],
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    mask: Tensor = sam.postprocess_masks(low, small, world.photos[name].shape[:2])[0, 0]
    return mask


def agree(world: World, results: Results, **how: Any) -> None:
    """Every row's mask is the reference's, but for pixels whose logit is all but zero."""
    kinds = set()
    for row in results.rows:
        logits = reference(world, row.path, row.text, **how).numpy()
        found = rle.decode(row.mask).astype(bool)
        assert found.shape == logits.shape
        np.testing.assert_array_equal(found[abs(logits) > 1e-3], (logits > 0)[abs(logits) > 1e-3])
        assert (abs(logits) > 1e-3).mean() > 0.95
        kinds |= {"mixed"} if 0.02 < found.mean() < 0.98 else set()
    assert len(results.rows) == 4 and kinds == {"mixed"}


def evaluated(request: EvalRequest) -> Results:
    report = eval_command(request)
    (path,) = report.files
    return read_results(path)


def test_live_it_is_the_plain_composition(world: World) -> None:
    results = evaluated(world.request())
    agree(world, results)
    found = find_published(str(world.folder))
    assert results.header.digests["checkpoint"] == found.digest
    assert results.header.digests["published"] == f"{world.layout}-model ({world.layout})"
    assert {row.tokens for row in results.rows} == {(world.size // 14) ** 2}
    assert all(row.bounds is None for row in results.rows)


@pytest.mark.parametrize("world", ["glamm"], indirect=True)
def test_its_own_image_encoder_is_used_where_it_is_asked_for(world: World) -> None:
    results = evaluated(world.request(own_sam=True, sam_weights=None))
    agree(world, results, own_sam=True)


@pytest.mark.parametrize("world", ["glamm"], indirect=True)
def test_a_cache_of_the_clip_recipe_gives_the_same_masks(world: World) -> None:
    found = find_published(str(world.folder))
    source = open_dataset(str(world.root / "own.jsonl"), split="val")
    encoders = Encoders(device="cpu", sam=world.root / "sam.pth", encoder=world.root / "clip")
    recipe, where = live_recipe(found, encoders, source.image_root)
    options = RunOptions(workers=0)
    content = Content(source.images, "val", source.sha256)
    precompute(content, recipe, where, world.root / "cache", options, quiet=True)
    cached = {"sam_weights": None, "encoder_weights": None}
    results = evaluated(world.request(caches=(world.root / "cache",), **cached))
    agree(world, results)
    assert all(row.bounds is not None for row in results.rows)
    said = evaluated(
        world.request(caches=(world.root / "cache",), **cached, protocol="glamm", generate=True)
    )
    assert len(said.rows) == 4 and (said.header.protocol, said.header.generate) == ("glamm", True)
    other = recipe.model_copy(
        update={"features": recipe.features.model_copy(update={"view": "squash"})}
    )
    precompute(content, other, where, world.root / "squashed", options, quiet=True)
    with pytest.raises(PlanMismatchError, match=r"view squash.*trained on.*view clip.*--set feat"):
        eval_command(world.request(caches=(world.root / "squashed",), **cached))


def test_predict_answers_without_training(world: World, tmp_path: Path) -> None:
    report = predict_command(
        PredictRequest(
            images=world.root / "b.png",
            expressions=TEXTS,
            published=str(world.folder),
            sam_weights=world.root / "sam.pth",
            encoder_weights=world.root / "clip",
            device="cpu",
            out=tmp_path / "out",
        )
    )
    for mask, text in zip(masks(report), TEXTS, strict=True):
        logits = reference(world, "b.png", text).numpy()
        sure = abs(logits) > 1e-3
        np.testing.assert_array_equal(mask[sure], (logits > 0)[sure])
    digests = report.photos[0].record["digests"]
    assert digests["checkpoint"] == find_published(str(world.folder)).digest


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"published": "GLaMM-RefSeg"},
            MissingError,
            r"hf download MBZUAI/GLaMM-RefSeg.*hub:MBZUAI",
        ),
        ({"checkpoint": Path("run")}, ConfigError, "--published and --checkpoint"),
        ({"published": "clip"}, WeightsError, r"32,007 \(glamm\) or 32,004 \(lisa\)"),
    ],
)
def test_what_is_no_published_model_is_refused(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(world.root)
    with pytest.raises(error, match=message):
        eval_command(world.request(**options))


def test_a_folder_without_its_projector_is_refused(world: World, tmp_path: Path) -> None:
    torch.save(
        {n: t for n, t in world.state.items() if "mm_projector" not in n},
        tmp_path / "pytorch_model.bin",
    )
    for path in world.folder.iterdir():
        if path.suffix in (".json", ".model") and "index" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(WeightsError, match="holds no mm_projector"):
        eval_command(world.request(published=str(tmp_path)))


@pytest.mark.parametrize("world", ["glamm"], indirect=True)
@pytest.mark.parametrize(
    ("tower", "taken"),
    [
        ("openai/clip-vit-large-patch14-336", True),
        ("/models/clip", True),
        ("", True),
        (None, True),
        ("openai/clip-vit-base-patch16", False),
        ("google/siglip-so400m-patch14-384", False),
        (7, False),
    ],
)
def test_a_vision_tower_other_than_clip_large_is_refused(
    world: World, tmp_path: Path, tower: object, taken: bool
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in world.folder.iterdir():
        (folder / path.name).symlink_to(path)
    raw = json.loads((world.folder / "config.json").read_text())
    (folder / "config.json").unlink()
    raw |= {"mm_vision_tower": tower, "vision_tower": tower}
    (folder / "config.json").write_text(json.dumps(raw))
    if taken:
        assert find_published(str(folder)).vision.encoder == "clip-large-336"
        return
    with pytest.raises(WeightsError, match=r"config\.json: mm_vision_tower .*CLIP ViT-L/14 only"):
        find_published(str(folder))


@pytest.mark.parametrize("world", ["glamm"], indirect=True)
def test_a_repository_of_the_hubs_cache_names_its_snapshot(world: World, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--MBZUAI--GLaMM-RefSeg" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(world.folder)
    with pytest.raises(ConfigError, match=rf"give its snapshot .*snapshots/{'a' * 40}"):
        find_published(str(tmp_path / "models--MBZUAI--GLaMM-RefSeg"))
    with pytest.raises(ConfigError, match="is a file: give its folder"):
        find_published(str(world.folder / "config.json"))


@pytest.mark.parametrize("world", ["glamm"], indirect=True)
def test_predict_tells_bad_photographs_and_places_first(world: World, tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes((world.root / "a.png").read_bytes()[:3000])
    asked = {"expressions": ("a", "b"), "published": "none", "device": "cpu"}
    with pytest.raises(ImageError, match=r"cut\.png: truncated"):
        predict_command(PredictRequest(images=cut, out=tmp_path / "out", **asked))
    for name in ("a-2-mask.png", "a-1-overlay.png", "a.json"):
        out = tmp_path / f"blocked by {name}"
        (out / name).mkdir(parents=True)
        with pytest.raises(CacheError, match=rf"{name}: cannot be written"):
            predict_command(PredictRequest(images=world.root / "a.png", out=out, **asked))
