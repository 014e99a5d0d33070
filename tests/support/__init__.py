"""What tests share: small worlds, models and runs, and the programs that tests start and kill.

`from support.fake_run import ...` works in tests (`pythonpath = tests` in setup.cfg) and in the
processes they start (tests/conftest.py puts the folder on PYTHONPATH). By hand, a program runs as
`PYTHONPATH=tests python -m support.kill_trials`. Data lie in tests/fixtures.
"""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
FIXTURES = TESTS / "fixtures"
