"""Train N children in lockstep, by one of two engines behind one interface."""

from lr_env.children.autotune import choose_backend, fastest, resolve
from lr_env.children.backend import Backend
from lr_env.children.children import Children
from lr_env.children.execution import AUTO, LOOP, Execution
from lr_env.children.numerics import EXACT, Numerics

__all__ = [
    "AUTO",
    "EXACT",
    "LOOP",
    "Backend",
    "Children",
    "Execution",
    "Numerics",
    "choose_backend",
    "fastest",
    "resolve",
]
