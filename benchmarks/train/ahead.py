"""A thread that is one ahead, so that what it makes need not be waited for."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def ahead(make: Callable[[int], Made], number: int) -> Iterator[Made]:
    """Yields what ``make`` makes of 0, 1, ..., each made while the one before it is in use.

    What ``make`` raises is raised here, in its turn.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, 0) if number else None
        for following in range(1, number + 1):
            assert coming is not None
            made = coming.result()
            if following < number:
                coming = thread.submit(make, following)
            yield made
