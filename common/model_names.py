"""Which models a config may name: takt's own, torchvision's, and those of packages.

    cnn_small                        takt's own, see common.catalog
    torchvision/mobilenet_v3_small   torchvision's classifiers
    PACKAGE/NAME                     the entry point NAME of an installed package, in
                                     the group `takt.models`

A name of a package is looked up in what is installed; neither the package nor torch is
imported, so that a config is checked in full before stage 1 begins. Not here: building
a model (common.models.zoo), what is asked of one (common.models.contract).
"""

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import NamedTuple

from common.catalog import ARCHITECTURES, STUDENT_ARCHITECTURES, check_name
from common.errors import ConfigError
from common.text import nearest

GROUP = "takt.models"
TORCHVISION = "torchvision"
_MOST_CHARACTERS = 64  # of a name: as much as a node's report may say
_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_SIZES = {
    "convnext_": "base large small tiny",
    "densenet": "121 161 169 201",
    "efficientnet_": "b0 b1 b2 b3 b4 b5 b6 b7 v2_l v2_m v2_s",
    "mnasnet": "0_5 0_75 1_0 1_3",
    "mobilenet_": "v2 v3_large v3_small",
    "regnet_x_": "16gf 1_6gf 32gf 3_2gf 400mf 800mf 8gf",
    "regnet_y_": "128gf 16gf 1_6gf 32gf 3_2gf 400mf 800mf 8gf",
    "resnet": "101 152 18 34 50",
    "resnext": "101_32x8d 101_64x4d 50_32x4d",
    "shufflenet_v2_": "x0_5 x1_0 x1_5 x2_0",
    "squeezenet": "1_0 1_1",
    "swin_": "b s t v2_b v2_s v2_t",
    "vgg": "11 11_bn 13 13_bn 16 16_bn 19 19_bn",
    "vit_": "b_16 b_32 h_14 l_16 l_32",
    "wide_resnet": "101_2 50_2",
}
# torchvision's registry, as a test holds; to read it would import torch.
TORCHVISION_MODELS = (
    *("alexnet", "googlenet", "inception_v3", "maxvit_t"),
    *(family + size for family, sizes in _SIZES.items() for size in sizes.split()),
)


class KnownModel(NamedTuple):
    """A model that can be named here, and where it comes from."""

    name: str
    package: str  # with its version
    is_student: bool  # of takt's own: not one that serves as a teacher only


def is_packaged(name: str) -> bool:
    """Tell a model of a package, torchvision's among them, from takt's own."""
    return "/" in name


def check_model(name: str) -> str:
    """Return the name of a model that can be built here.

    Raises:
        ConfigError: there is none of that name, or its package is not installed; the
            message has the nearest name.
    """
    if not is_packaged(name):
        return _check_own(name)
    if len(name) > _MOST_CHARACTERS or not _FORM.fullmatch(name):
        raise ConfigError(
            f"'{name[:_MOST_CHARACTERS]}' is no name of a model; expected PACKAGE/NAME "
            f"of at most {_MOST_CHARACTERS} letters, digits, -, _ and ."
        )
    package, _, model = name.partition("/")
    if package == TORCHVISION:
        _check_among(model, TORCHVISION_MODELS, TORCHVISION)
    else:
        entry_point(name)
    return name


def check_student_model(name: str) -> str:
    """Return the name of a model that can be built here and serves as a student.

    Raises:
        ConfigError: as `check_model`, or it is one of takt's that is a teacher only.
    """
    check_model(name)
    if not is_packaged(name) and name not in STUDENT_ARCHITECTURES:
        raise ConfigError(
            f"model '{name}' is a teacher only; expected one of "
            f"{', '.join(STUDENT_ARCHITECTURES)}, or a package's"
        )
    return name


def entry_point(name: str) -> EntryPoint:
    """Look up the entry point of ``PACKAGE/NAME``; nothing is imported.

    Raises:
        ConfigError: the package is not installed, or has no such entry point.
    """
    package, _, model = name.partition("/")
    found = {
        each.name: each
        for each in entry_points(group=GROUP)
        if each.dist is not None and _normal(each.dist.name) == _normal(package)
    }
    if not found:
        raise ConfigError(f"model '{name}' is of package '{package}', {_why(package)}")
    _check_among(model, tuple(sorted(found)), package)
    return found[model]


def installed_version(name: str) -> str:
    """Name the package of a model with its installed version; takt alone for ours."""
    if not is_packaged(name):
        return "takt"
    package = name.partition("/")[0]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def known_models() -> Iterator[KnownModel]:
    """List all models that can be named here: takt's own first."""
    for name in ARCHITECTURES:
        yield KnownModel(name, "takt", name in STUDENT_ARCHITECTURES)
    for each in sorted(entry_points(group=GROUP), key=lambda e: (_package(e), e.name)):
        name = f"{_package(each)}/{each.name}"
        yield KnownModel(name, installed_version(name), True)
    for model in TORCHVISION_MODELS:
        name = f"{TORCHVISION}/{model}"
        yield KnownModel(name, installed_version(name), True)


def _check_own(name: str) -> str:
    """Check a name of takt's own; hint at one of a package that ends like it."""
    try:
        return check_name("model", name, ARCHITECTURES)
    except ConfigError as e:
        others = [each.name for each in known_models() if is_packaged(each.name)]
        same = [other for other in others if other.partition("/")[2] == name]
        if not same:
            raise
        message = str(e).partition("; did you mean")[0]
        raise ConfigError(f"{message}; did you mean '{same[0]}'?") from None


def _check_among(model: str, known: tuple[str, ...], package: str) -> None:
    """Check a name within a package; a long list is left to `takt models list`."""
    if model in known:
        return
    close = nearest(model, known)
    hint = f"did you mean '{package}/{close}'? " if close else ""
    some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    raise ConfigError(
        f"no model of package {package} is called '{model}'; {hint}it has {some}; "
        "`takt models list` has all"
    )


def _why(package: str) -> str:
    """Say why no model of a package is to be had here, and what to do."""
    try:
        found = version(package)
    except PackageNotFoundError:
        return (
            "which is not installed here; install it beside takt, at the cloud and at "
            "each node, or name another model"
        )
    return (
        f"whose installed version {found} has no entry point in the group '{GROUP}'; "
        "install one that has, or name another model"
    )


def _package(each: EntryPoint) -> str:
    return "" if each.dist is None else each.dist.name


def _normal(package: str) -> str:
    """Write a package's name as indexes compare it: "A.b_c" is "a-b-c"."""
    return re.sub(r"[-_.]+", "-", package).lower()
