"""Robust evaluation: `pool` in processes of its own for a run, `single` for one model.

`pool.EvaluationPool` measures models while other work goes on; `single.evaluate_model`
is `takt evaluate`; `worker` is what the pool starts.

Not here: the attacks and what their results mean (common.robustness).
"""
