"""Packages and a port that a command needs, asked for before anything is imported or computed."""

import socket
from importlib.util import find_spec

from ...pipeline.errors import ConfigError, MissingPackageError

HOST = "127.0.0.1"


def require_training(use: str) -> None:
    """Raise MissingPackageError without the packages of extra `train` that every training needs."""
    if not (find_spec("accelerate") and find_spec("peft")):
        raise MissingPackageError("accelerate and peft", "train", use)


def require_demo(host: str, port: int) -> None:
    """Raises MissingPackageError without Gradio, ConfigError for a port that cannot be used."""
    if not find_spec("gradio"):
        raise MissingPackageError("gradio", "demo", "svp demo")
    require_port(host, port)


def require_port(host: str, port: int) -> None:
    """Raise ConfigError, with another port that is free, if `port` cannot be served."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        with socket.create_server((host, 0)) as free:
            other = free.getsockname()[1]
        why = f"{error.strerror or error}".lower()
        raise ConfigError(
            f"port {port} of {host} cannot be used ({why}): name another, such as --port {other}"
        ) from None
