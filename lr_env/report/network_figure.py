"""A picture of an architecture: layers from left to right by depth, connections that skip layers as arcs."""

from __future__ import annotations

from collections import defaultdict
from os import PathLike
from typing import Any

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path

from lr_env.architecture import KINDS, Architecture, Node
from lr_env.report.plotting import TEXT, new_figure, own_style, save

_COLOURS = {
    "linear": "#cfe3f3",
    "conv": "#fbdcc4",
    "norm": "#e6e6e6",
    "embedding": "#cdeee2",
    "attention": "#f3d9e8",
    "join": "#fff2b8",
    "input": "#ffffff",
    "output": "#ffffff",
    "other": "#d9d2ec",
}
_MOST_LEVEL = 12
"""Columns up to which texts are level; in longer networks they are upright."""

_MOST_DRAWN = 400


def draw_architecture(architecture: Architecture, title: str, path: str | PathLike[str]) -> None:
    """Draw an architecture and save the figure as PNG.

    Raises:
        ValueError: it has too many nodes for a picture.
    """
    if len(architecture.nodes) > _MOST_DRAWN:
        raise ValueError(f"{len(architecture.nodes)} nodes are too many for a picture: at most {_MOST_DRAWN} are drawn")
    columns, lanes = places(architecture)
    length = max(columns) + 1
    level = length <= _MOST_LEVEL
    # Everything is in inches.
    across, size = (1.25, (1.0, 0.72)) if level else (0.37, (0.27, 1.75))
    high = size[1] + 0.35
    arcs = [e for e in architecture.edges if lanes[e[0]] == lanes[e[1]] and columns[e[1]] - columns[e[0]] > 1]
    above = max((_arc_height(columns[end] - columns[start]) for start, end in arcs), default=0.1)
    width, height = max(length * across, 3.5), above + (max(lanes) + 1) * high
    with own_style():
        figure = new_figure(width + 0.5, height + 0.95, title)
        axes = figure.subplots()
        axes.set(xlim=(-0.6 * across, width - 0.4 * across), ylim=(height - above - 0.45 * high, -above - 0.55 * high))
        axes.set_aspect("equal")
        axes.axis("off")
        at = [(column * across, lane * high) for column, lane in zip(columns, lanes, strict=True)]
        for start, end in architecture.edges:
            _connect(axes, at[start], at[end], size, columns[end] - columns[start])
        for node, (x, y) in zip(architecture.nodes, at, strict=True):
            _box(axes, node, x, y, size, level)
        kinds = [
            kind
            for kind in KINDS
            if kind in {node.kind for node in architecture.nodes if node.weighted or node.kind == "join"}
        ]
        handles = [Patch(facecolor=_COLOURS[kind], edgecolor="#888888", label=kind) for kind in kinds]
        most = max(int(width / 1.1), 1)
        figure.legend(handles=handles, loc="outside lower left", ncols=min(len(kinds), most), frameon=False, fontsize=9)
        save(figure, path)


def places(architecture: Architecture) -> tuple[list[int], list[int]]:
    """Return the column and the lane of each node; no two nodes share both.

    The longest path is lane 0. Others are in the first lane that is free from them to the node that they feed. A node
    that nothing feeds is right before the first that it feeds.
    """
    columns = list(architecture.depths)
    for number, targets in enumerate(architecture.targets):
        if targets and not architecture.sources[number] and architecture.nodes[number].kind != "input":
            columns[number] = max(min(columns[target] for target in targets) - 1, 0)
    lanes = [-1] * len(columns)
    taken: dict[int, set[int]] = defaultdict(set)
    for number in _longest(architecture):
        lanes[number] = 0
        taken[0].add(columns[number])
    for number in architecture.order:
        if lanes[number] >= 0:
            continue
        last = min((columns[target] for target in architecture.targets[number]), default=columns[number] + 1)
        span = set(range(columns[number], last))
        before = [lanes[source] for source in architecture.sources[number] if lanes[source] > 0]
        lane = next(lane for lane in (*before, *range(1, len(columns) + 1)) if not span & taken[lane])
        lanes[number] = lane
        taken[lane] |= span
    return columns, lanes


def _longest(architecture: Architecture) -> list[int]:
    """The nodes of a longest path, from its end."""
    depths = architecture.depths
    path = [max(range(len(depths)), key=lambda n: (depths[n], architecture.nodes[n].kind == "output"))]
    while sources := architecture.sources[path[-1]]:
        path.append(max(sources, key=lambda source: depths[source]))
    return path


def _arc_height(skipped: int) -> float:
    return min(0.25 + 0.07 * skipped, 1.6)


def _connect(axes: Any, start: tuple[float, float], end: tuple[float, float], size: Any, columns: int) -> None:
    """Draw an edge: an arrow to the next column, an arc over what it skips, or a path along the other lane."""
    (x, y), (to_x, to_y) = start, end
    half, up = size[0] / 2, size[1] / 2
    leaves, arrives = x + half / 2, to_x - half / 2  # apart, or what arrives at a node would seem to pass through it
    if y == to_y and columns == 1:
        points, codes, colour = [(x + half, y), (to_x - half, y)], [Path.MOVETO, Path.LINETO], "#555555"
    elif y == to_y:
        arc = min(_arc_height(columns), 0.25) if y else _arc_height(columns)  # between lanes there is less room
        top = y - up - arc * 4 / 3  # the curve reaches three quarters of the way to its control points
        points = [(leaves, y - up), (leaves, top), (arrives, top), (arrives, y - up)]
        codes, colour = [Path.MOVETO, *[Path.CURVE4] * 3], "#0072B2"
    elif y < to_y:  # down first, then along the lower lane
        points = [(leaves, y + up), (leaves, to_y), (to_x - half, to_y)]
        codes, colour = [Path.MOVETO, Path.LINETO, Path.LINETO], "#0072B2"
    else:
        points = [(x + half, y), (arrives, y), (arrives, to_y + up)]
        codes, colour = [Path.MOVETO, Path.LINETO, Path.LINETO], "#0072B2"
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 6, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(path=Path(points, codes), color=colour, **style))


def _box(axes: Any, node: Node, x: float, y: float, size: tuple[float, float], level: bool) -> None:
    width, height = size
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=_COLOURS[node.kind],
            edgecolor="#888888",
            linewidth=0.8,
        )
    )
    text = ("\n" if level else ", ").join(_words(node))
    axes.text(x, y, text, ha="center", va="center", fontsize=8 if level else 7, rotation=0 if level else 90, color=TEXT)


def _words(node: Node) -> list[str]:
    """What is written on a node: operation and width, and what follows it."""
    name = {"norm": node.operation.replace("_", " ")}.get(node.kind, node.operation or node.kind)
    width = f"{node.positions}x{node.fan_out}" if node.kind == "input" and node.positions > 1 else str(node.fan_out)
    return [f"{name} {width}", *followers(node)]


def followers(node: Node) -> list[str]:
    """Activation, pooling and dropout after a node, as words."""
    return [
        *([node.activation] if node.activation and node.activation != node.operation else []),
        *([f"{node.pooling} pool"] if node.pooling else []),
        *([f"dropout {node.dropout:g}"] if node.dropout else []),
    ]
