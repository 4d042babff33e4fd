"""What a training step does with a batch, by method.

`losses.METHODS` has a line for each: how its student is attacked (`crafting`) and what
is minimised; `targets` chooses what an image is fitted to that lacks a true label or
soft labels. Not here: what a method needs of a release (common.catalog), the steps
(edge.distill.fitting).
"""
