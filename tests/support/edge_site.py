"""A project with a real gateway in this process, real releases, and nodes.

The releases are small but true: on digits, the teacher is a nearest-centroid
classifier (its logits, and the sign of its gradient as adversarial delta), so
that a student can really be distilled from them without training a teacher.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from release_drafts import draft, shard_of
from small_runs import small_card
from tuf.api.metadata import TargetFile
from waiting import WAIT_S

from cloud.gateway.live_teacher import LiveTeacher
from cloud.gateway.server import GatewayThread
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.signing_keys import RoleKeys
from cloud.publishing.tuf_metadata import SignedMetadata
from cloud.storage import StorageDir
from common.clock import Clock, utc_now
from common.config import (
    AttackConfig,
    DatasetConfig,
    GatewayConfig,
    ProfileConfig,
    StudentConfig,
)
from common.data.datasets import Split, load_dataset
from common.records import Evaluation
from common.release import (
    Arrays,
    Manifest,
    WeightsInfo,
    encode_manifest,
    encode_shard,
    image_arrays,
    pack_signs,
    quantize_rows,
)
from edge.config import EdgeConfig
from edge.credentials import Certificates
from edge.daemon.enrolment import enroll
from edge.link.client import Link
from edge.link.connection import Connection, ConnectionOptions
from edge.releases.sync import ReleaseSync
from edge.state import StateDir

CHANNEL = "digits"
EPS = 0.15
MOST_CALLS = 64  # that a node may have open
FAST = ProfileConfig(cpus=1.0, memory_mib=1500, bandwidth_kib_s=100_000)


def recipe(**changes: Any) -> StudentConfig:
    """Make a recipe that one CPU-second is enough for."""
    default: dict[str, Any] = {
        "model": "cnn_tiny",
        "epochs": 2,
        "eps_warmup_epochs": 0,
        "attack": AttackConfig(steps=1, step_size=0.1),
    }
    return StudentConfig(**{**default, **changes})


class EdgeSite:
    """A storage folder, a gateway on it, and the nodes that joined."""

    def __init__(self, folder: Path, teacher: LiveTeacher | None = None) -> None:
        """Make a project in `folder`, without a gateway yet."""
        self.folder = folder
        self.teacher = teacher
        self.storage = StorageDir(folder / "cloud")
        self.storage.create()
        self.repository = ReleaseRepository(self.storage.repository, self.storage.keys)
        self.repository.create()
        self.gateway: GatewayThread | None = None
        self.clock: Clock = utc_now  # of the gateway

    def start(self) -> GatewayThread:
        """Start the gateway; started again it keeps its ports."""
        self.gateway = GatewayThread(
            storage=self.storage,
            config=GatewayConfig(max_streams_per_node=MOST_CALLS),
            channel=CHANNEL,
            teacher=self.teacher,
            clock=self.clock,
        ).__enter__()
        return self.gateway

    def stop(self) -> None:
        """Stop the gateway at once."""
        if self.gateway is not None:
            self.gateway.stop()
            self.gateway = None

    def allow(self, node: str) -> str:
        """Let a node enrol; return its token."""
        assert self.gateway is not None
        return self.gateway.running.authority.allow(node)

    def node_config(self, node: str, **changes: Any) -> EdgeConfig:
        """Make the config of a node that has not joined."""
        assert self.gateway is not None
        default: dict[str, Any] = {
            "node": node,
            "student": "tiny",
            "gateway": self.gateway.address,
            "enroll": self.gateway.enroll_address,
            "ca": self.storage.ca,
            "state_dir": self.folder / "nodes" / node,
            "profile": FAST,
            "deadline_s": WAIT_S,
            "stall_s": 5.0,
            "heartbeat_s": 0.5,
        }
        return EdgeConfig(**{**default, **changes})

    def join(self, node: str, **changes: Any) -> EdgeConfig:
        """Enrol a node; return its config."""
        config = self.node_config(node, **changes)
        enroll(config, self.allow(node))
        return config

    @contextmanager
    def syncing(
        self,
        config: EdgeConfig,
        *,
        certificates: Certificates | None = None,
        root_json: bytes | None = None,
        **link_arguments: Any,
    ) -> Iterator[tuple[Link, ReleaseSync]]:
        """Open a node's link and sync without a daemon."""
        state = StateDir(config.state_dir)
        state.create()
        link_arguments = {"place": state.place(), **link_arguments}
        link = Link(connection_of(config, certificates, **link_arguments))
        root_json = root_json or (state.identity / "root.json").read_bytes()
        try:
            yield link, ReleaseSync(link, state, channel=CHANNEL, root_json=root_json)
        finally:
            link.close()

    def publish_noise(
        self, *, seed: int = 0, num_samples: int = 3000, **changes: Any
    ) -> Manifest:
        """Publish random knowledge of 28x28 images: bytes to move, not to learn."""
        rng = np.random.default_rng(seed)
        shape = (1, 28, 28)
        delta = rng.standard_normal((num_samples, *shape)).astype(np.float32)
        logits = rng.standard_normal((num_samples, 10)).astype(np.float32)
        return self._publish(
            {
                "soft_labels": _labels("logits", logits),
                "deltas": {"delta_signs": pack_signs(delta)},
                # Of an older or a later takt: no recipe reads it.
                "unread": {"margin": logits[:, 0].astype(np.float16)},
            },
            num_samples=num_samples,
            sample_shape=shape,
            fingerprint="0" * 64,
            **changes,
        )

    def publish_digits(self, *, seed: int = 0, **changes: Any) -> Manifest:
        """Publish what a nearest-centroid teacher knows of the digits."""
        train = load_dataset(DatasetConfig(), seed=seed).train
        x = train.images.reshape(len(train), -1).astype(np.float32) / 255
        centroids = np.stack([x[train.labels == c].mean(axis=0) for c in range(10)])
        logits = _centroid_logits(x, centroids)
        others = logits.copy()
        others[np.arange(len(x)), train.labels] = -np.inf
        nearest = others.argmax(axis=1)
        delta = np.sign(centroids[nearest] - centroids[train.labels])
        return self._publish(
            {
                "soft_labels": _labels("logits", logits),
                "deltas": {
                    "delta_signs": pack_signs(delta.reshape(train.images.shape))
                },
            },
            num_samples=len(train),
            sample_shape=(1, 8, 8),
            fingerprint=train.fingerprint(),
            seed=seed,
            **changes,
        )

    def publish_transfer(
        self,
        *,
        num_images: int = 60,
        num_val: int = 20,
        weights: tuple[str, ...] = ("tiny",),
        **fields: Any,
    ) -> Manifest:
        """Publish some digits themselves, a centroid teacher's labels, and weights.

        None of them is among the images that `own_folder` writes.

        Args:
            num_images: of the training split, the first ones.
            num_val: of the validation split.
            weights: students with starting weights, which are random ones.
            fields: of the manifest.
        """
        from transfer_site import CLOUD  # and with it torch

        dataset = load_dataset(CLOUD, seed=0)
        train, val = dataset.train, dataset.val
        images, labels = train.images[:num_images], train.labels[:num_images]
        x = train.images.reshape(len(train), -1).astype(np.float32) / 255
        centroids = np.stack([x[train.labels == c].mean(axis=0) for c in range(10)])
        logits = _centroid_logits(x[:num_images], centroids)
        students = fields.get("students", {"tiny": recipe()})
        shipped = image_arrays(val.images[:num_val], val.labels[:num_val], 10)
        default: dict[str, Any] = {
            "images": "transfer",
            "source": "digits",
            "limit": CLOUD.limit,
            "num_samples": num_images,
            "num_val": num_val,
            "fingerprint": Split(images, labels).fingerprint(),
            "weights": {name: self._weights(name, students[name]) for name in weights},
        }
        return self._publish(
            {
                "images": image_arrays(images, labels, 10),
                "val_images": shipped,
                "soft_labels": _labels("logits", logits),
            },
            **{**default, **fields},
        )

    def _weights(self, name: str, recipe: StudentConfig) -> WeightsInfo:
        import torch

        from common.models.files import save_model
        from common.models.zoo import build_model, num_parameters

        path = self.folder / "drafts" / f"weights-{name}.safetensors"
        torch.manual_seed(0)
        model = build_model(recipe.model, in_channels=1, image_size=8, num_classes=10)
        card = small_card(architecture=recipe.model, method=recipe.method)
        sha256 = save_model(path, model.half(), card)
        return WeightsInfo(
            path=path.name,
            num_bytes=path.stat().st_size,
            sha256=sha256,
            architecture=recipe.model,
            num_parameters=num_parameters(model),
            clean_accuracy=0.1,
            robust=Evaluation(
                attack="pgd",
                version="3 steps",
                norm="Linf",
                eps=EPS,
                num_images=20,
                accuracy=0.1,
                seed=0,
            ),
        )

    def sign_manifest(self, manifest: Manifest, path: str = "") -> None:
        """Sign a manifest as it is, whatever the files of its release are.

        Args:
            manifest: to sign.
            path: of the target; "": where a manifest of its version belongs.
        """
        path = path or f"{manifest.channel}/{manifest.version}/manifest.json"
        self.sign_target(path, encode_manifest(manifest))

    def sign_target(self, path: str, data: bytes, *, sha256: str = "") -> None:
        """Sign any bytes as a target, in the place of what is there.

        Args:
            path: of the target.
            data: its content.
            sha256: signed in the place of the content's own, whatever it is.
        """
        metadata = SignedMetadata(
            self.storage.repository / "metadata",
            RoleKeys(self.storage.keys),
            clock=utc_now,
        )
        state = metadata.load()
        target = TargetFile.from_data(path, data, ["sha256"])
        folder, _, name = path.rpartition("/")
        file = self.repository.targets / folder / f"{target.hashes['sha256']}.{name}"
        file.write_bytes(data)
        target.hashes["sha256"] = sha256 or target.hashes["sha256"]
        state.targets.signed.targets[path] = target
        metadata.commit(state, "publish")

    def publish_plain(self, **fields: Any) -> Manifest:
        """Publish a release without shards, for methods that read none."""
        return self._publish({}, **fields)

    def _publish(self, contents: dict[str, Arrays], **fields: Any) -> Manifest:
        drafts = self.folder / "drafts"
        drafts.mkdir(exist_ok=True)
        shards = []
        for content, arrays in contents.items():
            data = encode_shard(arrays)
            count = "num_val" if content == "val_images" else "num_samples"
            shard = shard_of(content, data, num_samples=fields[count])
            (drafts / shard.path).write_bytes(data)
            shards.append(shard)
        default: dict[str, Any] = {
            "channel": CHANNEL,
            "eps": EPS,
            "students": {"tiny": recipe()},
            "shards": tuple(shards),
        }
        manifest = draft(**{**default, **fields})
        return self.repository.publish(manifest, drafts, force=True)


def current_student(state_dir: Path) -> Path | None:
    """Find the student that serves on a node: its safetensors file, None for none."""
    state = StateDir(state_dir)
    promoted = state.read_current().promoted
    return None if promoted is None else state.student_file(promoted)


def connection_of(
    config: EdgeConfig, certificates: Certificates | None = None, **changes: Any
) -> Connection:
    """Open a node's connection; `changes` go to its options and its arguments."""
    options: dict[str, Any] = {
        "profile": config.profile,
        "deadline_s": config.deadline_s,
        "stall_s": config.stall_s,
        "place": "",
    }
    options.update({name: changes.pop(name) for name in options if name in changes})
    return Connection(
        changes.pop("address", config.gateway),
        certificates or Certificates.of(StateDir(config.state_dir).identity),
        ConnectionOptions(**options),
        **changes,
    )


@contextmanager
def edge_site(folder: Path, teacher: LiveTeacher | None = None) -> Iterator[EdgeSite]:
    """Run a site with its gateway up."""
    site = EdgeSite(folder, teacher)
    site.start()
    try:
        yield site
    finally:
        site.stop()


def _labels(name: str, logits: NDArray[Any]) -> dict[str, NDArray[Any]]:
    quantised, scale = quantize_rows(logits)
    return {name: quantised, f"{name}_scale": scale}


def _centroid_logits(
    x: NDArray[np.floating[Any]], centroids: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    squares = ((x[:, None, :] - centroids[None]) ** 2).sum(axis=2)
    logits: NDArray[np.float32] = (-2.0 * squares).astype(np.float32)
    return logits


def node_environment(folder: Path) -> dict[str, str]:
    """Return variables for a daemon that finds no boto3, as on a node.

    It is here for the tests' object store; securesystemslib, which knows keys in a
    cloud, imports it where it can, and the daemon would be 10 MiB larger.
    """
    folder.mkdir(exist_ok=True)
    (folder / "boto3.py").write_text("raise ImportError('not on a node')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}
