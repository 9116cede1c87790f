"""Work done in threads a little ahead of the use of its results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def mapped_ahead(function: Callable[[S], T], inputs: Iterable[S], threads: int) -> Iterator[T]:
    """What a function makes of inputs, in their order; while one result is used, each thread makes one of the next."""
    ahead: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for one in inputs:
            ahead.append(pool.submit(function, one))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
