"""The failure table, a function a row: what happens, and what must come of it.

Each function gets `quick` (less time, not less strict), returns its figures as text, and raises
Failed, Gap or Skip. The figures of what did happen go first. The rows are in rows_*.py.
"""

from lab import Skip
from scene import Failed

TABLE = {}  # number -> (title, function)


class Gap(Failed):
    """What is there today holds; a part of the requirement is not built yet."""


def row(number, title):
    def enter(function):
        assert number not in TABLE
        TABLE[number] = (title, function)
        return function

    return enter


def or_skipped(part):
    """The figures of a part of a row; where the machine does not allow that part, why."""
    try:
        return part()
    except Skip as skip:
        return f"skipped: {skip}"
