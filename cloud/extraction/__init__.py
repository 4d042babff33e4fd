"""Teacher to knowledge: soft labels, adversarial examples and boundary points.

`job.extract_knowledge` writes the images that a release ships (`image_shards`) and
spreads its samples over Ray actors (`worker`), each of which computes one `block` after
another and writes shards.

Not here: signing and versions (cloud.publishing), the shards' codec (common.release).
"""
