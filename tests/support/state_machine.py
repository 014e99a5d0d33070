"""Running a machine of random steps (hypothesis' stateful tests)."""

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_machine(machine: type[RuleBasedStateMachine], examples: int, length: int) -> None:
    """Take `examples` walks of at most `length` steps; SVP_NO_SHRINK: a failure is not reduced."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=length,
            deadline=None,
            phases=(Phase.generate,) if os.environ.get("SVP_NO_SHRINK") else tuple(Phase),
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
