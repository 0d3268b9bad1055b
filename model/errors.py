"""Errors an operator can act on: what, which, and what next.

Each class is one exit code of the command line (DESIGN section 9); 0 is success and 2 is usage,
which the argument parser raises itself; 1 is a bug of ours.
"""

from traceback import walk_tb


class KycacheError(Exception):
    """An expected failure: `problem` says what and which, `remedy` what to do next."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class ConfigurationError(KycacheError):
    """A setting or the view definition is wrong."""

    exit_code = 3


class Unreachable(KycacheError):
    """A server that is needed does not answer."""

    exit_code = 4


class Refused(KycacheError):
    """Going on would break a promise: other topic, other view, log cut, failed verification."""

    exit_code = 5


def whereabouts(error: BaseException) -> str:
    """Of which kind an unexpected failure is and where it happened, innermost frame first.

    Without its message and the values around it: either may hold personal data.
    """
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(whereabouts, error.exceptions))
    frames = [
        f"{frame.f_code.co_name} {frame.f_code.co_filename}:{line}" for frame, line in walk_tb(error.__traceback__)
    ]
    return " < ".join((type(error).__name__, *reversed(frames)))


class HaltShard(Exception):
    """The item must not be applied and nothing behind it either: what, which, and what next."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy
