"""What a student learns from: the release's images, the node's own, or both.

`sampler.Sampler` makes the batches, half of them from each source; `joined` puts what
is known of the two beside each other, the release's first. Not here: reading image
files (common.data), what a step does with a batch (edge.distill.fitting.training).
"""
