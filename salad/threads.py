"""Many small matrices on several cores: a piece of work a thread, with one thread of BLAS and of FAISS in each.

Two threads on one small product mostly wait for each other, and on shared cores for other programs too: k-means of a few
thousand texts was seen to take ten times as long (docs/log.md). Results do not depend on how many cores there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

Each = Callable[..., Iterator[Any]]  # as `map`


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """While it lasts, or as a decorator while a function runs, BLAS has one thread."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, or as a decorator while a function runs, BLAS and OpenMP have one thread: sums come out the same."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@contextmanager
def one_thread_each() -> Iterator[Each]:
    """A `map` whose calls run side by side and whose results come in order; while it lasts BLAS has one thread."""
    import faiss

    with one_blas_thread():
        threads = faiss.omp_get_max_threads()
        with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as workers:
            yield workers.map
