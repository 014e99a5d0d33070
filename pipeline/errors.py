"""Error classes: every user-facing failure states file and record, cause and remedy.

The command line turns an `SvpError` into one line on stderr and the class's `exit_code`; any other
exception is a bug of ours and keeps its traceback.
"""

from .display import escape, shorten


class SvpError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what `svp` exits with.

    `everywhere`: all processes of a distributed run raise it at the same point.
    """

    exit_code = 1
    everywhere = False


class DataError(SvpError):
    """A record or file of a data source is wrong; the message names it and the rule it breaks.

    `problems` holds the single lines where one error stands for many, each with file and record;
    `found` counts them all, also those beyond the listed.
    """

    problems: tuple[str, ...] = ()
    found: int = 0


class ImageError(DataError):
    """One image cannot be used. `reason` is a stable code: it goes into the quarantine list."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.reason, str(self))


class WeightsError(SvpError):
    """A checkpoint is not what it should be: keys, shapes, digest or an unsafe file."""


class CacheError(SvpError):
    """A cache is damaged, incomplete or cannot be written."""


class ConfigError(SvpError, ValueError):
    """An option or recipe field has a value that is not allowed."""

    exit_code = 2


class PlanMismatchError(CacheError):
    """Artefacts that do not belong together; the message names both digests."""

    exit_code = 2


class MissingError(SvpError, FileNotFoundError):
    """Data or weights are not there; the message says where they were looked for."""

    exit_code = 3

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingPackageError(SvpError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    exit_code = 3

    def __init__(self, package: str, extra: str, use: str) -> None:
        super().__init__(f"{use} needs {package}: pip install 'svp[{extra}]'")
        self.package, self.extra, self.use = package, extra, use

    def __reduce__(self) -> tuple[type["MissingPackageError"], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.use)


class NonFiniteError(SvpError):
    """A loss or gradient is not finite: the step was not taken; the message names the batch."""

    everywhere = True


class Interrupted(SvpError):
    """A signal stopped the run cleanly; the message is the line that resumes it."""

    everywhere = True

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum  # 130 for SIGINT, 143 for SIGTERM

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, str]]:
        return type(self), (self.signum, str(self))


def describe(error: BaseException) -> str:
    """One printable line for any exception: control characters escaped, length bounded.

    >>> describe(DataError("bad \\x1b[31m name"))
    'bad \\\\x1b[31m name'
    """
    text = str(error) or type(error).__name__
    if isinstance(error, Interrupted):  # ends in a command to paste: whole, however long
        return escape(text)
    return shorten(text if isinstance(error, SvpError) else f"{type(error).__name__}: {text}", 2000)
