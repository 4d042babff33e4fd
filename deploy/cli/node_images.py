"""`takt edge images`: what a node's [data] holds, and what leaves the device.

Not here: the counting (common.data.folder_counts), what a training makes of the images
(edge.distill).
"""

from common.config import OwnImagesConfig
from common.text import counted
from edge.config import EdgeConfig
from edge.state import StateDir


def describe_images(config: EdgeConfig) -> list[str]:
    """Say it in a few lines.

    Raises:
        DataError: the folder is missing or unreadable.
    """
    data = config.data
    if data is None:
        return [
            f"{config.node} has no images of its own ([data] in edge.toml): it trains "
            "on the release's",
            "no image leaves this device",
        ]
    lines = [f"{config.node} has {_holds(data)}"]
    if data.folder is not None:
        lines += _news(config, data)
    return [*lines, sharing(data, config.gateway)]


def sharing(data: OwnImagesConfig, gateway: str) -> str:
    """Say what of a node's own images leaves the device."""
    if not data.share_images:
        return "no image leaves this device (share_images = false)"
    return (
        "images leave this device (share_images = true): each one that is trained on, "
        f"and its shifted views, goes once to gateway {gateway}, whose teacher "
        "answers; none where the release's recipe trains without its answers"
    )


def _holds(data: OwnImagesConfig) -> str:
    if data.folder is None:
        some = f" of classes {', '.join(map(str, data.classes))}" * bool(data.classes)
        images = counted(data.images or 0, "image")
        return f"{images}{some}, drawn from the release's data set"
    from common.data.folder_counts import count_folder

    return f"in {data.folder} {count_folder(data.folder).describe()}"


def _news(config: EdgeConfig, data: OwnImagesConfig) -> list[str]:
    """Say how many images the last distillation has not seen."""
    from edge.daemon.new_images import NewImages

    state = StateDir(config.state_dir)
    current = state.read_current()
    images = NewImages(data, state)
    if not current.version:
        return []
    new = counted(images.num_new(images.look(), current), "image")
    since = f"{new} new or changed since the distillation of release {current.version}"
    if current.tried_sha256 is not None:
        since = (
            f"{new} new or changed since the last distillation with a result (that of "
            f"release {current.version}: {current.outcome})"
        )
    if data.retrain_after is None:
        return [f"{since}; the next release, or `takt edge once`, takes them in"]
    if current.tried_sha256 is not None:
        return [
            f"{since}; it is tried again when one of its images is mended or gone, or "
            f"with {data.retrain_after:,} more (retrain_after)"
        ]
    return [f"{since}; {data.retrain_after:,} start one (retrain_after)"]
