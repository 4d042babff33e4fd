"""Teachers and students: networks by name, their sizes, and their files.

`zoo.build_model` makes one by name, `zoo.save_model` and `zoo.load_model` write and
read its file, `card.ModelCard` is what the file says of itself (free of torch).

Not here: training, and any registry that grows at run time.
"""
