"""The Gymnasium environments."""

from lr_env.env.environment import NOT_YET, Info, LREnv, LRVectorEnv

__all__ = ["NOT_YET", "Info", "LREnv", "LRVectorEnv"]
