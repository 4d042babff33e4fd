"""Which URLs may name a store of checkpoints; told without opening one.

Not here: the store itself, and what its filesystem finds wrong with a URL
(cloud.training.checkpoint_store).
"""

from urllib.parse import SplitResult, urlsplit

from common.errors import ConfigError

# Of the filesystems that pyarrow knows.
SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "file")
EXPECTED = (
    "expected s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, hdfs://HOST/FOLDER or "
    "file:///FOLDER"
)


def check_store_url(url: str) -> str:
    """Return what messages call the URL of a folder: without its options.

    Raises:
        ConfigError: it is no such URL, or it holds credentials.
    """
    try:
        parts = urlsplit(url)
    except ValueError as e:  # of brackets that are no IPv6 address
        raise ConfigError(f"teacher.store is no URL; {EXPECTED}") from e
    if "@" in parts.netloc:
        raise ConfigError(
            "teacher.store holds credentials; leave them out, for the config is kept "
            "with each run, and set them in the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    shown = _without_options(parts)
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"teacher.store = '{shown}': {EXPECTED}")
    if not (parts.netloc + parts.path).strip("/"):
        raise ConfigError(
            f"teacher.store = '{shown}' names no folder; expected for instance "
            "s3://BUCKET/FOLDER"
        )
    return shown


def _without_options(parts: SplitResult) -> str:
    start = f"{parts.scheme}://" if parts.scheme else ""
    return f"{start}{parts.netloc}{parts.path}"
