"""Images and labels: where they come from, and which part is for what.

`datasets.load_dataset` gives a `Dataset` of uint8 images, its splits and its
fingerprint; `sources` knows the data sets by name, `idx` and `image_folder` read the
files; `own_images` are those that a node has and its cloud has not, in class folders or
drawn, as a `camera` has them; `views` makes the crops and flips that cloud and node
must agree on, bit by bit.

Not here: which view is shown when (edge.distill.fitting), the training images of a
teacher on its device (cloud.training.images).
"""
