"""Left out of every test run but `make test-ecosystem`: it needs packages of its own, and minutes.

pytest tests/ecosystem --ecosystem
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ecosystem", action="store_true", help="run the tests with lm-evaluation-harness"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Where pytest was not given this folder by name, the option is not known.
    if not config.getoption("--ecosystem", default=False):
        left_out = [item for item in items if HERE in item.path.parents]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
