"""The names of nodes, channels and students: one grammar on both sides.

They become parts of file names and of paths in a repository, so that nothing else is
taken for one, whoever says it. Not here: names of models (common.model_names).
"""

import re

PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"
EXPECTED = "1 to 63 of a-z, 0-9, - and _, the first a letter or digit"
_NAME = re.compile(PATTERN)


def is_name(text: str) -> bool:
    """Tell whether a text is a name."""
    return _NAME.fullmatch(text) is not None
