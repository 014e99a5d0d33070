"""Small promises that no other test holds: flags, servers, secrets."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVERS = {"gradio", "flask", "fastapi", "uvicorn", "aiohttp", "socketserver", "http.server"}


def test_deterministic_sets_torchs_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from svp.pipeline.errors import ConfigError
    from svp.train.runs import train
    from svp.train.runs.inputs import TrainRequest

    seen: list[bool] = []

    def stop(*arguments: object) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        raise ConfigError("far enough")

    monkeypatch.setattr(train, "with_caches", stop)
    try:
        for wanted in (False, True):
            with pytest.raises(ConfigError, match="far enough"):
                train.train_command(TrainRequest(device="cpu", deterministic=wanted))
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [False, True]


def package_files() -> list[Path]:
    modules = [
        path
        for package in ("pipeline", "model", "train", "integrations")
        for path in (ROOT / package).rglob("*.py")
    ]
    return [*modules, ROOT / "cli.py", ROOT / "__init__.py", ROOT / "__main__.py"]


def imported(path: Path) -> set[str]:
    """Modules a file imports, anywhere in it, with all their parents."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found | {name.split(".")[0] for name in found}


def test_only_the_demo_serves_anything() -> None:
    found = {path.name: imported(path) & SERVERS for path in package_files()}
    assert {path: names for path, names in found.items() if names} == {"demo.py": {"gradio"}}


def test_no_secret_of_the_environment_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.train.provenance import VARIABLES, environment

    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, f"secret-of-{name}")
        assert name not in VARIABLES
    for name in VARIABLES:
        monkeypatch.setenv(name, "shown")
    recorded = environment()
    assert recorded["variables"] == dict.fromkeys(VARIABLES, "shown")
    assert "secret-of" not in str(recorded)
    assert not [name for name in VARIABLES if re.search("TOKEN|KEY|SECRET|PASS", name)]
