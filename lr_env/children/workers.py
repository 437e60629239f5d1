"""Threads that train several children, or blocks of them, at the same time, on one core each."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch


class Workers:
    """Threads of an engine, each of which computes on one core.

    Args:
        count: how many; with one, the caller's own thread does the work, with all of torch's threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._start()

    def each(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Call a function for each of several items, at the same time where there are several threads."""
        if self._pool is None or len(items) == 1:
            return [work(item) for item in items]
        if self._process != os.getpid():  # a forked process, which has none of its parent's threads
            self._start()
        jobs = [self._pool.submit(work, item) for item in items]
        try:
            return [job.result() for job in jobs]
        finally:  # after an error no thread may go on writing into the children
            for job in jobs:
                job.cancel()
            wait(jobs)

    def _start(self) -> None:
        self._process = os.getpid()
        self._pool = _pool(self.count) if self.count > 1 else None
        if self._pool is not None:
            weakref.finalize(self, self._pool.shutdown, wait=False)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Start threads that compute on one core each; the caller's number of threads stays as it is."""
    threads = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # otherwise the thread's first operation would set the process's number
        torch.set_num_threads(1)  # for this thread, but also the first number of threads that start later
        torch.set_flush_denormal(True)  # as a single thread does
        started.wait()

    pool = ThreadPoolExecutor(workers, "lr_env-child", initializer=start)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)
    return pool
