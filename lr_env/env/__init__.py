"""The Gymnasium environments."""

from lr_env.env.environment import NOT_YET, Info, LREnv, LRVectorEnv
from lr_env.env.families import LRFamilyEnv, LRFamilyVectorEnv

__all__ = ["NOT_YET", "Info", "LREnv", "LRFamilyEnv", "LRFamilyVectorEnv", "LRVectorEnv"]
