"""Teachers and students: networks by name, their sizes, and their files.

`zoo.build_model` makes one by name, `files.save_model` and `files.load_model` write
and read its file, `card.ModelCard` is what the file says of itself (free of torch),
`forward.Model` is the type that attacks and trainings take.

Not here: training, and any registry that grows at run time.
"""
