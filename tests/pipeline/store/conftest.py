"""Stores of each kind, each empty: folder, memory, and servers that speak as the services do."""

import json
import uuid
from pathlib import Path

import pytest

from support.object_server import point_to
from svp.pipeline.store import RetryPolicy, Store, open_store

KINDS = ["folder", "memory", "served", "moto", "google", "azure"]
QUICK = RetryPolicy(patience=20.0, first_wait=0.01, longest_wait=0.1, stall=2.0)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def place(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Address of an empty place of this kind."""
    name = uuid.uuid4().hex
    match kind:
        case "folder":
            return str(tmp_path / "store")
        case "memory":
            return f"memory://{name}/p"
        case "served":
            request.getfixturevalue("s3")
            return f"s3://tests/{name}/p"
        case "google":
            server = request.getfixturevalue("s3")
            account = {
                "gcs_base_url": server.endpoint, "disable_oauth": True, "client_email": "",
                "private_key": "", "private_key_id": "",
            }  # fmt: skip
            (tmp_path / "account.json").write_text(json.dumps(account))
            monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
            return f"gs://tests/{name}/p"
        case "azure":
            monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", request.getfixturevalue("s3").endpoint)
            monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
            monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
            return f"az://tests/{name}/p"
    point_to(monkeypatch, request.getfixturevalue("moto"))
    return f"s3://tests/{name}/p"


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place, QUICK)
