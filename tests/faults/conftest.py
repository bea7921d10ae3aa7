"""What fault tests counted is told at the end, whichever process ran them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

_TOLD = "told"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Keeps a line for the summary; call it before anything is asserted of what it says."""
    return lambda line: record_property(_TOLD, line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """All lines that tests have told."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, line in report.user_properties:
                if name == _TOLD:
                    terminalreporter.write_line(line)
