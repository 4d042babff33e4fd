"""Robust evaluation: `pool` in processes of its own for a run, `single` for one model.

Not here: the attacks and what their results mean (common.robustness).
"""
