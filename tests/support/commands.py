"""Commands of svp, run in the test's own process."""

from click.testing import CliRunner

from svp.cli import main


def svp(*words: str) -> str:
    """What a command says; it must succeed."""
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, f"svp {' '.join(words)}: {result.output} {result.exception!r}"
    return result.output
