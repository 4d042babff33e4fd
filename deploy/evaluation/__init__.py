"""Robust evaluation: `pool` in processes of its own for a run, `single` for one model.

`pool.EvaluationPool` measures models while other work goes on, and gives a
`measurement.Measurement` of each; `worker` is what it starts, `samples` takes the
pictures of a model's test images. `single.evaluate_model` is `takt evaluate`.

Not here: the attacks and what their results mean (common.robustness).
"""
