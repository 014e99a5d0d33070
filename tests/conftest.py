"""The order of the tests: what takes minutes first, so that no process ends up with it alone."""

import pytest

# Files whose tests run whole pipelines; the rest keep their order.
LONG = ("test_quickstart.py", "test_end_to_end.py", "test_cluster.py", "test_torchrun.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
