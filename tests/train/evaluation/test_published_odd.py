"""`svp eval --published` with odd input: one clear error, before hours are spent.

Exit codes: 2 what was asked for cannot be, 3 something is not there, 1 a file is not what it must be.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from svp.cli import main
from svp.model.conversion.stand_in import write_standin
from svp.pipeline.datasets.scenes import write_scenes

pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
SETTINGS = "folder: .\nsam: {vit_h: [64, 1]}\nencoder_width: 64\nin_process: true\n"
SHARD = "pytorch_model-00002-of-00002.bin"
INDEX = "pytorch_model.bin.index.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both published folders, generated scenes, photographs alone; the models are narrow."""
    root = tmp_path_factory.mktemp("odd")
    (root / "dial.yaml").write_text(SETTINGS)
    write_scenes(root / "scenes", images=1, seed=0, splits={"val": 1})
    (root / "photos").mkdir()
    shutil.copy(next((root / "scenes" / "images").rglob("*.*")), root / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVP_REHEARSAL", str(root / "dial.yaml"))
        patch.setenv("XDG_CACHE_HOME", str(root / "home"))
        patch.setenv("HF_HUB_CACHE", str(root / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("SVP_WEIGHTS", raising=False)
        patch.chdir(root)
        write_standin(root / "glamm", vision=64)
        write_standin(root / "lisa", "lisa", vision=64)
        yield root


def copy(source: Path, name: str) -> Path:
    """The folder's files by links, to be replaced one by one."""
    folder = source.parent / name
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def without(source: Path, name: str, part: str) -> Path:
    """The folder whose shards lack the tensors with `part` in their names."""
    folder = copy(source, name)
    where = json.loads((source / INDEX).read_text())["weight_map"]
    for shard in sorted(set(where.values())):
        kept = {n: t for n, t in torch.load(source / shard).items() if part not in n}
        (folder / shard).unlink()
        torch.save(kept, folder / shard)
    (folder / INDEX).unlink()
    left = {n: file for n, file in where.items() if part not in n}
    (folder / INDEX).write_text(json.dumps({"weight_map": left}))
    return folder


def refused(code: int, published: str, *words: str, encoder: str = "random") -> str:
    """The one error of an evaluation that ends with `code`."""
    data = () if "--dataset" in words else ("--dataset", "scenes")
    clip = ("--encoder-weights", encoder) if encoder else ()
    sam = () if "--own-sam" in words else ("--sam-weights", "random")
    asked = ["--published", published, "--device", "cpu", "--size", "tiny"]
    asked += [*sam, *clip, *data, *words]
    found = CliRunner().invoke(main, ["eval", *asked])
    text = found.stderr.replace("\n", " ")
    assert found.exit_code == code, text
    assert text.count("svp: ") + text.count("Error: ") == 1 and "Traceback" not in text
    assert not list(Path("runs").glob("**/*.jsonl"))
    return text


def test_a_lisa_folder_called_glamm(root: Path) -> None:
    copy(root / "lisa", "GLaMM-RefSeg")
    text = refused(2, "GLaMM-RefSeg")
    assert "vocab_size 32004 is that of layout lisa, the folder is called GLaMM-RefSeg" in text
    assert "give the folder of MBZUAI/GLaMM-RefSeg" in text


def test_weights_of_lisa_beside_glamms_config(root: Path) -> None:
    folder = copy(root / "lisa", "mixed")
    (folder / "config.json").unlink()
    shutil.copy(root / "glamm" / "config.json", folder)
    assert "embed_tokens.weight: has 32004x64 bfloat16, needs 32007x64" in refused(1, "mixed")


def test_a_shard_or_the_index_is_missing(root: Path) -> None:
    (copy(root / "glamm", "no-shard") / SHARD).unlink()
    assert f"1 of its 2 shards are not there, {SHARD}" in refused(3, "no-shard")
    (copy(root / "glamm", "no-index") / INDEX).unlink()
    assert f"without their {INDEX}" in refused(3, "no-index")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not a PyTorch"),
    ],
    ids=["cut", "lfs"],
)
def test_a_shard_is_damaged(
    content: bytes | None, why: str, root: Path, request: pytest.FixtureRequest
) -> None:
    name = f"damaged-{request.node.callspec.id}"
    file = copy(root / "glamm", name) / SHARD
    file.unlink()
    file.write_bytes(content or (root / "glamm" / SHARD).read_bytes()[:5000])
    text = refused(1, name)
    assert f"{name}/{SHARD}: " in text and why in text


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("grounding_encoder.mask_decoder", "mask_decoder: transformer"),
        ("grounding_encoder", "prompt_encoder: no_mask_embed.weight"),
        ("text_hidden_fcs", "to_prompt: 0.weight"),
        ("mm_projector", "holds no mm_projector"),
    ],
)
def test_keys_of_the_grounding_encoder_are_missing(part: str, missing: str, root: Path) -> None:
    without(root / "glamm", f"no-{part}", part)
    assert missing in refused(1, f"no-{part}")


def test_its_own_sam_where_it_holds_none(root: Path) -> None:
    without(root / "glamm", "no-sam", "grounding_encoder.image_encoder")
    assert "without --own-sam" in refused(1, "no-sam", "--own-sam")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("GLaMM-RefSegg", "did you mean hub:MBZUAI/GLaMM-RefSeg?"),
        ("sam", "Published are MBZUAI/GLaMM-RefSeg, MBZUAI/GLaMM-FullScope, xinlai/LISA-7B-v1"),
        ("glamm-refseg", "`hf download MBZUAI/GLaMM-RefSeg` and give hub:MBZUAI/GLaMM-RefSeg"),
        ("MBZUAI/GLaMM-RefSeg", "give hub:MBZUAI/GLaMM-RefSeg"),
        ("https://huggingface.co/MBZUAI/GLaMM-RefSeg", "give hub:MBZUAI/GLaMM-RefSeg"),
        ("hub:MBZUAI/GLaMM-RefSeg", "`hf download MBZUAI/GLaMM-RefSeg`"),
        ("lab/other", "`hf download lab/other` and give hub:lab/other"),
    ],
)
def test_a_name_that_is_not_there(name: str, remedy: str, root: Path) -> None:
    assert remedy in refused(3, name)


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_below_one(limit: str, root: Path) -> None:
    assert "'--limit'" in refused(2, "glamm", "--limit", limit)


def test_what_is_no_set_of_expressions(root: Path) -> None:
    assert "photographs without expressions" in refused(2, "glamm", "--dataset", "photos")
    assert "nowhere is neither a path" in refused(3, "glamm", "--dataset", "nowhere")
    found = CliRunner().invoke(main, ["eval", "--published", "glamm", "--device", "cpu"])
    assert found.exit_code == 2 and "name them with --dataset" in found.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("layout", "tower", "command"),
    [
        ("glamm", "openai/clip-vit-large-patch14-336", "svp fetch clip-large-336"),
        ("lisa", "openai/clip-vit-large-patch14", "hf download openai/clip-vit-large-patch14"),
    ],
)
def test_its_clip_is_not_there(layout: str, tower: str, command: str, root: Path) -> None:
    text = refused(3, layout, encoder="")
    assert f"{layout}/config.json: mm_vision_tower {tower}" in text
    assert f"for {tower} in the hub's local cache. Get them with `{command}`" in text


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"image_size": 224}, "image_size is 224"), ({"patch_size": 16}, "patch_size is 16")],
)
def test_another_clip(changes: dict[str, int], field: str, root: Path) -> None:
    from transformers import CLIPVisionConfig

    folder = root / f"clip-{field[:5]}"
    folder.mkdir()
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 24,
             "num_attention_heads": 1, "image_size": 336, "patch_size": 14}  # fmt: skip
    CLIPVisionConfig(**(sizes | changes)).save_pretrained(folder)
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert field in refused(1, "glamm", encoder=folder.name)
