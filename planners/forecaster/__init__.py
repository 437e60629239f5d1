"""Forecasts of learning curves, from what was seen of a run, its settings and its architecture; see `Forecaster`.

After LC-GODE (Ding et al., arXiv 2412.15554): a neural differential equation that is told the architecture.
"""
