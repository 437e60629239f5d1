"""A step captured once as a CUDA graph, and replayed for every step of every segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

_WARM_UP = 3


class Replay:
    """Steps of one block of children without the host in between.

    What differs from step to step lies in tables on the device, with one row a step; the graph reads the row that its
    own counter points at and counts on. So a segment is as many replays, one short call each.

    Args:
        step: does one step, given one row of each table; returns the losses, (block,). It must work on the same memory
            every time, and never wait for the device.
        tables: name -> (steps, ...), as `run` will get them.
        kept: a context that puts back what `step` changes: warming up and capturing run it.
    """

    def __init__(
        self,
        step: Callable[[Mapping[str, Tensor]], Tensor],
        tables: Mapping[str, Tensor],
        kept: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._tables = {name: table.clone() for name, table in tables.items()}
        device = next(iter(self._tables.values())).device
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)

        def one() -> Tensor:
            return step({name: table.index_select(0, self._counter)[0] for name, table in self._tables.items()})

        with kept(), torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                losses = [one() for _ in range(_WARM_UP)][-1]
            torch.cuda.current_stream().wait_stream(stream)
            steps = len(next(iter(self._tables.values())))
            self._losses = torch.zeros(steps, *losses.shape, dtype=losses.dtype, device=device)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._losses.index_copy_(0, self._counter, one()[None])
                self._counter.add_(1)

    def run(self, tables: Mapping[str, Tensor]) -> Tensor:
        """All steps of one segment; returns their losses, (steps, block), valid until the next call."""
        for name, table in self._tables.items():
            table.copy_(tables[name])
        self._counter.zero_()
        for _ in range(len(self._losses)):
            self._graph.replay()
        return self._losses
