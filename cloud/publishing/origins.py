"""Where shipped images come from, and under which licence: said in the manifest.

Of the public data sets it is known; of a project's own images its owner says it with
`knowledge.licence`, which also takes the place of what is known here. A licence that
nobody has stated is called so: whether the images may be handed on is then the
publisher's own decision. Not here: which images are shipped (cloud.extraction).
"""

from typing import NamedTuple

from common.config import RunConfig

NOT_STATED = "not stated"


class Origin(NamedTuple):
    """Of some images."""

    source: str
    licence: str


# Each licence with who states it.
ORIGINS: dict[str, Origin] = {
    "digits": Origin(
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI "
        "Machine Learning Repository",
        "CC BY 4.0",  # the repository's page of the set
    ),
    "mnist": Origin(
        "MNIST (LeCun, Cortes and Burges), derived from data of NIST",
        "CC BY-SA 3.0",  # the documentation of Keras, keras.io/api/datasets/mnist
    ),
    "fashion-mnist": Origin(
        "Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), Zalando SE",
        "MIT",  # its repository, github.com/zalandoresearch/fashion-mnist
    ),
    "cifar10": Origin(
        "CIFAR-10 (Krizhevsky, 2009), from the 80 Million Tiny Images",
        NOT_STATED,  # its page asks for a citation and names no licence
    ),
    "folder": Origin("images of the publisher's own", NOT_STATED),
}


def origin_of(config: RunConfig) -> Origin:
    """Say where the images of a run's data set come from, and under which licence."""
    known = ORIGINS[config.dataset.name]
    licence = config.knowledge.licence
    return known if licence is None else Origin(known.source, licence)
