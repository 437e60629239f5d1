"""The parameter groups of a network: its layers or blocks, which may have learning rates of their own."""

from __future__ import annotations

from torch import nn


def parameter_groups(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The parameters of each layer or block of a network, in the order from the input to the output.

    A block is a numbered part, such as "blocks.0", with all that is inside; any other layer is a group of its own.
    Layers without weight matrices, such as norms, belong to the group before them, and neighbouring embeddings are one
    group. A group is named by the path of its first module.

    >>> list(parameter_groups(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))))
    ['0', '3']

    Args:
        module: the network; its parameters are taken in the order of `named_parameters`, tied ones once.

    Returns:
        Name of a group -> names of its parameters. Together these are all, in order.
    """
    shapes = {name: parameter.dim() for name, parameter in module.named_parameters()}
    blocks: dict[str, list[str]] = {}
    for name in shapes:
        blocks.setdefault(_block(name), []).append(name)
    groups: dict[str, list[str]] = {}
    before, embedded = "", False
    for block, names in blocks.items():
        embeds = isinstance(module.get_submodule(block if block not in names else ""), nn.Embedding)
        joins = (embeds and embedded) or max(shapes[name] for name in names) < 2
        if before and joins:
            groups[before] += names
        else:
            groups[block], before = names, block
        embedded = embeds
    return {name: tuple(names) for name, names in groups.items()}


def _block(parameter: str) -> str:
    """The path of the block that a parameter is in: up to the first number in it, or that of its module.

    >>> _block("blocks.0.attention.weight"), _block("head.weight"), _block("token")
    ('blocks.0', 'head', 'token')
    """
    path = parameter.split(".")
    numbered = next((place for place, part in enumerate(path[:-1]) if part.isdigit()), None)
    return ".".join(path[: -1 if numbered is None else numbered + 1]) or parameter
