"""Every error that a user can meet. Each says what happened, why, and what to do next."""

from __future__ import annotations


class AutoChunkError(Exception):
    """Base of all errors raised on purpose. The message is written for the user.

    Catch it to show the message without a traceback. The command line exits with ``exit_code``:
    2 where the input must be changed, 1 where the work itself failed.
    """

    exit_code = 1


class ConfigError(AutoChunkError):
    """A campaign file, option or argument is wrong. Correct the named key and run again."""

    exit_code = 2


class CaptureError(AutoChunkError):
    """The model cannot be captured as a graph. Use the model unchanged, or capture submodules."""


class UnsupportedSizes(CaptureError):
    """The sizes of a call contradict what a capture assumed. Capture again at these sizes."""


class IllegalRegion(AutoChunkError):
    """A region cannot run as a loop in this graph at this length. Drop the choice that uses it."""


class CyclicPlan(AutoChunkError):
    """The chosen regions depend on each other in a cycle. Drop one of them."""


class BudgetError(AutoChunkError):
    """No plan fits the memory budget.

    ``lowest_bytes`` is the lowest activation peak that any known plan reaches; ask for at least
    that much.
    """

    exit_code = 2

    def __init__(self, message: str, *, lowest_bytes: int) -> None:
        super().__init__(message)
        self.lowest_bytes = lowest_bytes


class MemoryShortage(AutoChunkError):
    """A call ran out of memory with every plan, down to that of the lowest peak.

    ``lowest_bytes`` is the activation peak that this one needs by prediction, ``free_bytes`` what
    was free. Free memory, or shorten the input; the model and the plans are unharmed.
    """

    def __init__(self, message: str, *, lowest_bytes: int, free_bytes: int) -> None:
        super().__init__(message)
        self.lowest_bytes = lowest_bytes
        self.free_bytes = free_bytes


class PlanError(AutoChunkError):
    """A plan does not belong to this graph, or is malformed. Tune again for this graph."""


class DatabaseError(AutoChunkError):
    """A plan database file is damaged or unreadable. The message names the file and the place."""

    exit_code = 2


class LedgerError(AutoChunkError):
    """A ledger file is damaged beyond a torn last line. The message names the file and line."""

    exit_code = 2


class MeasurementError(AutoChunkError):
    """A measuring process could not do its work at all, so that no plan can be confirmed."""


class ModelFileError(AutoChunkError):
    """A cost model's file is missing, damaged or of another version. The message says what to do;
    nothing depends on such a file but where a cost model starts from."""

    exit_code = 2
