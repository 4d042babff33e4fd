"""A node's own images: the table [data] of edge.toml, and of a simulated node.

They lie in class folders, or are drawn from a public data set, from those images that
the cloud leaves out (`dataset.limit`). Not here: reading and drawing them
(common.data), what a node does with them (edge.distill).
"""

from typing import Literal

from pydantic import Field, model_validator

from common.config.sections import FilePath, Section

CameraShift = Literal["none", "brightness", "blur", "rotation"]


class OwnImagesConfig(Section):
    """Images that a node has and its cloud has not: a folder, or drawn ones."""

    folder: FilePath | None = None
    """folders named as classes are, with _ for /; unlabelled/: no label is known"""
    images: int | None = Field(default=None, ge=0)
    """how many are drawn of the release's data set, in the place of a folder"""
    classes: tuple[int, ...] = ()
    """of the drawn ones, counted from 0; none: all classes"""
    class_shares: tuple[float, ...] = ()
    """of the drawn ones, one a class, for uneven classes; none: as in the data set"""
    labelled: float = Field(default=1.0, ge=0, le=1)
    """share of the drawn ones whose label the node knows"""
    shift: CameraShift = "none"
    """what the node's camera does to its drawn images"""
    part: tuple[int, int] = (0, 1)
    """which of how many disjoint parts the images are drawn from"""
    share_images: bool = False
    """ask the gateway's teacher about them: the images leave the device"""
    retrain_after: int | None = Field(default=None, ge=1)
    """new images in the folder that start a distillation; None: a release alone does"""

    @model_validator(mode="after")
    def _check_source(self) -> "OwnImagesConfig":
        if (self.folder is None) == (self.images is None):
            raise ValueError(
                "needs one of folder (class folders) and images (a number, drawn from "
                "the release's data set); give one, or leave the whole table out"
            )
        # By value: a job's JSON has every field.
        drawn = [n for n in _OF_DRAWN if getattr(self, n) != _default_of(n)]
        if self.folder is not None and drawn:
            raise ValueError(
                f"{', '.join(drawn)} is for drawn images; leave it out with a folder"
            )
        if self.images is not None and self.retrain_after is not None:
            raise ValueError(
                "retrain_after is for a folder; drawn images do not change"
            )
        part, parts = self.part
        if not 0 <= part < parts:
            raise ValueError(f"part = [{part}, {parts}]: expected 0 to {parts - 1}")
        if any(share < 0 for share in self.class_shares):
            raise ValueError("class_shares: expected no negative share")
        return self


_OF_DRAWN = ("class_shares", "classes", "labelled", "part", "shift")


def _default_of(field: str) -> object:
    return OwnImagesConfig.model_fields[field].default
