"""What a process tells the others of its run."""

from typing import Any

import pytest

from svp.train import distributed


def failures(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The steps whose error the other processes are told, with its text, in turn; grows by use."""
    found: list[tuple[str, str]] = []
    exchange = distributed._exchange

    def noted(step: str, value: Any = "", error: Exception | None = None) -> Any:
        if error is not None:
            found.append((step, str(error)))
        return exchange(step, value, error)

    monkeypatch.setattr(distributed, "_exchange", noted)
    return found
