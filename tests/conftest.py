"""What every test may rely on: logging is as it was before the test changed it."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Log settings are the process's (contract §4.4), and here the process is pytest's."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
