"""Train N children in lockstep, by one of two engines behind one interface."""

from lr_env.children.backend import Backend
from lr_env.children.children import Children
from lr_env.children.numerics import EXACT, Numerics

__all__ = ["EXACT", "Backend", "Children", "Numerics"]
