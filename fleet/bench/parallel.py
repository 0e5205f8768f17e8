"""Runs many independent trials on all cores; the results are in the order of the trials."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

FEW = 64
"""Jobs that are not worth a process."""
MOST_PROCESSES = 8


def spread(job: Callable[[T], R], over: Sequence[T]) -> list[R]:
    """`[job(each) for each in over]`. `job` must be a function of a module, for it travels to other processes."""
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    if len(over) <= FEW or processes == 1:
        return [job(each) for each in over]
    chunk = max(1, len(over) // (processes * 8))
    # "spawn": a forked child would inherit whatever threads its parent has.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(job, over, chunksize=chunk))
