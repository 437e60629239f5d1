"""A step captured once as a CUDA graph, and replayed for every step of every segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

Tables = Mapping[str, Tensor]
_WARM_UP = 3


class Replay:
    """Replays steps of one block of children without the host between them.

    The inputs that differ between steps lie in tables on the device, with one row a step; a step reads the row of its
    counter and increases the counter. So a segment is a number of replays of one graph, one short call each. Each block
    has its own stream, so that a device that one block does not fill works on several.

    Args:
        step: trains one step, given one row of each table, and returns what it measures, (block, columns). It must use
            the same memory every time, and never wait for the device.
        tables: name -> (steps, ...), of the shapes that `run` will get.
        restored_afterwards: a context that puts back what `step` changes, since warming up runs it.
    """

    def __init__(
        self,
        step: Callable[[Tables], Tensor],
        tables: Tables,
        restored_afterwards: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._tables = {name: table.clone() for name, table in tables.items()}
        index = tables["index"]
        self._counter = torch.zeros(1, dtype=torch.int64, device=index.device)
        with restored_afterwards():
            self._measured = self._warm_up(step).expand(len(index), -1, -1).clone()
            self._capture(step)

    def run(self, tables: Tables) -> Tensor:
        """Train one segment; returns what its steps measure, (steps, block, columns), valid until the next call."""
        for name, table in self._tables.items():
            table.copy_(tables[name])
        self._counter.zero_()
        for _ in range(len(self._measured)):
            self._play()
        return self._measured

    def join(self) -> None:
        """Make the current stream wait for the block's stream."""
        torch.cuda.current_stream().wait_stream(self.stream)

    def started(self) -> AbstractContextManager[object]:
        """A context in which `run` uses the block's stream, after the work that the current stream has already."""
        self.stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self.stream)

    def _row(self) -> dict[str, Tensor]:
        return {name: table.index_select(0, self._counter)[0] for name, table in self._tables.items()}

    def _once(self, step: Callable[[Tables], Tensor]) -> None:
        self._measured.index_copy_(0, self._counter, step(self._row())[None])
        self._counter.add_(1)

    # The step is passed on and not stored: it belongs to the engine that stores this object, and the memory of a
    # reference cycle would live until the garbage collector runs.

    def _warm_up(self, step: Callable[[Tables], Tensor]) -> Tensor:
        """Run a few steps outside of the graph, which capturing needs; returns what the last one measured."""
        self.stream = torch.cuda.Stream()
        with self.started():
            measured = [step(self._row()) for _ in range(_WARM_UP)][-1]
        self.join()
        return measured

    def _capture(self, step: Callable[[Tables], Tensor]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # cuBLAS keeps one workspace a stream, for all graphs captured on it. Graphs that run at the same time must not
        # share one, nor may one graph's end free another's (pytorch/pytorch#193402): each gets its own.
        _forget_workspaces()
        with torch.cuda.graph(self._graph, stream=self.stream):
            self._once(step)
        _forget_workspaces()

    def _play(self) -> None:
        self._graph.replay()


def _forget_workspaces() -> None:
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None:
        clear()
