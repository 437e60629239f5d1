"""The flat rows of a block of children, taken apart for the time of a segment."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor

from lr_env.children.state import Layout


class Parts:
    """Rows of flat parameters as a few tensors: each weight by itself, and all vectors (biases, norms) together.

    In the rows of a block, a weight's numbers lie apart, child by child. Here they lie side by side, which is what
    products of many matrices want, and an update needs no gradient in rows. Weights of linear layers lie transposed,
    (inputs, outputs), for products of small matrices are faster so.

    Args:
        layout: of the rows.
        like: rows of as many children, (children, size).
        linear: names of the weights of linear layers.
        by_group: whether the parameters of different groups lie apart.

    Attributes:
        tensors: the parts, (children, ...) each.
        views: parameter name -> view of a part, (children, *shape), in the order of the layout.
    """

    def __init__(self, layout: Layout, like: Tensor, linear: Set[str] = frozenset(), by_group: bool = False) -> None:
        self.tensors: list[Tensor] = []
        self._layout = layout
        of_name: dict[str, Tensor] = {}
        for names in parts_of(layout, by_group):
            part = layout.only(names)
            flat = like.new_empty(len(like), part.size)
            views = part.views(flat)
            if names[0] in linear:
                outputs, inputs = layout.shapes[names[0]]
                views = {names[0]: flat.view(len(like), inputs, outputs).transpose(1, 2)}
            of_name |= views
            self.tensors.append(views[names[0]] if len(names) == 1 else flat)
        self.views = {name: of_name[name] for name in layout.shapes}

    def read(self, rows: Tensor) -> None:
        """Copy from rows, (children, size)."""
        for name, given in self._layout.views(rows).items():
            self.views[name].copy_(given)

    def write(self, rows: Tensor) -> None:
        """Copy into rows, (children, size)."""
        for name, given in self._layout.views(rows).items():
            given.copy_(self.views[name])


def parts_of(layout: Layout, by_group: bool = False) -> list[list[str]]:
    """The names of the parameters in each part of `Parts`."""
    parts = []
    for names in layout.groups.values() if by_group else [tuple(layout.shapes)]:
        vectors = [name for name in names if len(layout.shapes[name]) < 2]
        parts += [*([name] for name in names if len(layout.shapes[name]) >= 2), *([vectors] if vectors else [])]
    return parts
