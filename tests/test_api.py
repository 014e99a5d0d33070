"""The public API: all that a user imports is `svp`. Its names and signatures are a snapshot."""

import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import svp
from support.micro_export import make

HERE = Path(__file__).parent
ROOT = HERE.parent
SNAPSHOT = HERE / "contracts" / "api.json"
NAMED = {
    "load", "open_dataset", "build_generator", "CacheReader", "PROJECTORS",
    "build_projector", "SVPProjector", "load_pretrained", "save_pretrained", "metrics",
}  # fmt: skip


def surface(thing: Any) -> Any:
    """Signature of a function; public members of a class or module; keys of a table."""
    if isinstance(thing, dict):
        return sorted(thing)
    if isinstance(thing, ModuleType):
        own = {
            n: v for n, v in vars(thing).items() if getattr(v, "__module__", "") == thing.__name__
        }
        return {n: surface(v) for n, v in sorted(own.items()) if n[0] != "_" and callable(v)}
    if not inspect.isclass(thing):
        return parameters(thing)
    fields = inspect.get_annotations(thing)
    own = {name: vars(thing).get(name) for name in [*vars(thing), *fields] if name[0] != "_"}
    own.pop("model_config", None)
    plain = {n: getattr(v, "__func__", v) for n, v in own.items()}
    members = {n: parameters(v) if inspect.isfunction(v) else None for n, v in plain.items()}
    made = [] if issubclass(thing, Exception) else parameters(thing)
    called = {"called by": parameters(thing.__call__)} if "__call__" in vars(thing) else {}
    return {"made by": made, **called, "members": dict(sorted(members.items()))}


def parameters(thing: Any) -> list[str]:
    """Names, kinds and defaults as they are written; annotations are mypy's."""
    found = inspect.signature(thing).parameters.values()
    return [str(p.replace(annotation=p.empty)) for p in found]


def test_names_and_signatures_are_the_snapshot() -> None:
    """On a wanted change: copy the left side into tests/contracts/api.json, say so in docs/api.md."""
    found = {name: surface(getattr(svp, name)) for name in svp.__all__}
    assert found == json.loads(SNAPSHOT.read_text())
    assert set(svp.__all__) >= NAMED and set(svp.__all__) <= set(dir(svp))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = svp.lode


def test_every_public_name_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert [name for name in svp.__all__ if f"`{name}" not in text] == []
    for name in svp.__all__:
        if not isinstance(thing := getattr(svp, name), dict):
            assert thing.__doc__, name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("api")
    make(root)
    return root


def test_data_superpixels_cache(world: Path) -> None:
    data = svp.open_dataset(world / "scenes", split="val")
    (record,) = data.images
    image = np.asarray(Image.open(data.image_root / record.path).convert("RGB"))
    (found,), _ = svp.build_generator().generate_batch([image])
    assert (found.height, found.width) == image.shape[:2] and len(found) > 1
    reader = svp.CacheReader(world / "cache")
    assert reader.ids.tolist() == [record.image_id] and reader.status(0) == "missing"


@pytest.mark.parametrize("name", list(svp.PROJECTORS))
def test_every_projector_is_built(name: str) -> None:
    options = {"svp": {"sspe_dim": 16, "sspe_heads": 4, "ssa_heads": 4}}
    given = options.get(name, {})
    if name == "fusion":
        given = {"sources": 2, "svp": options["svp"]}
    projector = svp.build_projector(name, in_dim=64, llm_dim=64, grid=(4, 4), **given)
    assert isinstance(projector, svp.PROJECTORS[name]) and isinstance(projector, svp.Projector)


def test_a_model_is_saved_and_loaded(world: Path, tmp_path: Path) -> None:
    model = svp.load_pretrained(world / "export")
    first = next(iter(model.projector.parameters()))
    spec = svp.ProjectorSpec(name="mlp", in_dim=model.projector.in_dim, llm_dim=16)
    card = svp.Card("again")
    svp.save_pretrained(model, tmp_path / "again", projector=spec, tokenizer=None, card=card)
    again = svp.load_pretrained(tmp_path / "again").state_dict()
    assert first.numel() and all((again[n] == t).all() for n, t in model.state_dict().items())


def test_a_photograph_is_answered(world: Path) -> None:
    """As path, bytes, array and PIL image, by an export and its run."""
    path = min((world / "scenes" / "images").glob("val*"))
    picture = Image.open(path).convert("RGB")
    with svp.load(world / "export", device="cpu", size="tiny") as seg:
        found = seg(path, "the red disc")
        for image in (str(path), path.read_bytes(), picture, np.asarray(picture)):
            assert (seg(image, "the red disc").mask == found.mask).all()
        said = seg(picture, ["the red disc", "the blue box"], generate=True)
    assert found.mask.shape == (picture.height, picture.width) and found.mask.dtype == np.bool_
    assert found.area == found.mask.sum() and (found.score > 0.5) == bool(found.area)
    assert (found.photo == np.asarray(picture)).all() and found.overlay.size == picture.size
    assert len(found.superpixels) > 1 and found.superpixels.width == picture.width
    assert found.tokens == 256  # of the MLP projector, one per patch
    assert [answer.expression for answer in said] == ["the red disc", "the blue box"]
    assert all(answer.text is not None and answer.timings.keys() == {"encode", "read", "answer"}
               for answer in said)  # fmt: skip
    assert said[0].timings == said[1].timings and min(said[0].timings.values()) > 0
    run = svp.load(world / "runs" / "run", device="cpu", cache=world / "cache")
    assert (run(path, "the red disc").mask == found.mask).all()
    with pytest.raises(svp.SvpError, match="closed: load the model again"):
        seg(path, "the red disc")


def test_an_answer_is_written_by_its_ending(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = min((world / "scenes" / "images").glob("val*"))
    answer = svp.load(world / "export", device="cpu")(path, "the red disc")
    for name in ("a-mask.png", "a.png", "a.json"):
        answer.save(tmp_path / name)
    assert (np.asarray(Image.open(tmp_path / "a-mask.png")) == answer.mask * 255).all()
    assert (np.asarray(Image.open(tmp_path / "a.png")) == np.asarray(answer.overlay)).all()
    assert answer._repr_png_() == (tmp_path / "a.png").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(answer.record()))
    with pytest.raises(svp.SvpError, match="a.gif: answers are written as .png or .json"):
        answer.save(tmp_path / "a.gif")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    shown: list[Any] = []
    monkeypatch.setattr("PIL.ImageShow.show", lambda image: shown.append(image) or len(shown) > 1)
    monkeypatch.setattr("svp.train.runs.answer.sys.platform", "linux")
    with pytest.raises(svp.SvpError, match="no image viewer"):
        answer.show()
    assert not shown
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(svp.SvpError, match="no image viewer"):
        answer.show()
    answer.show()
    assert shown[1].tobytes() == answer.overlay.tobytes()


def test_what_cannot_be_answered_is_refused(world: Path, tmp_path: Path) -> None:
    seg = svp.load(world / "export", device="cpu")
    grey = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(svp.SvpError, match="no such photograph"):
        seg(tmp_path / "no.jpg", "disc")
    with pytest.raises(svp.SvpError, match="an address: give a file, or the bytes of one"):
        seg("https://example.org/a.jpg", "disc")
    with pytest.raises(svp.SvpError, match=r"float64 \(4, 4\), want uint8 RGB \(H,W,3\)"):
        seg(np.zeros((4, 4)), "disc")  # type: ignore[arg-type]
    with pytest.raises(svp.SvpError, match="^the image: not-an-image"):
        seg(b"GIF89a", "disc")
    with pytest.raises(svp.SvpError, match="not generated scenes"):
        seg(grey, "disc")
    with pytest.raises(svp.SvpError, match="at least one expression"):
        seg(grey, [])
    with pytest.raises(svp.SvpError):
        svp.load(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["README.md", "docs/api.md"])
def test_the_printed_example_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code = (ROOT / name).read_text("utf-8").split("```python\n")[1].split("```")[0]
    assert code.count("import ") == 1 and len([x for x in code.splitlines() if x.strip()]) <= 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVP_SIZE", "tiny")
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "mine").symlink_to(world / "export")
    Image.new("RGB", (96, 64), "white").save("photo.jpg")
    space: dict[str, Any] = {}
    exec(compile(code, name, "exec"), space)  # noqa: S102 - it is what a user pastes
    assert space["answer"].mask.shape == (64, 96)
