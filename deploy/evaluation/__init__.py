"""Robust evaluation in processes of its own: `pool` for a run, `single` for one model.

Not here: the attacks and the figures' meaning (common.robustness).
"""
