"""The frozen, validated models of one takt run's config file.

Owns the keys of the file and their bounds. It does not read data, build models or
open connections. Fractions may be written as strings: ``eps = "8/255"``. Not here:
reading the file, and saying what is wrong with it (toml_file.py).
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from common.catalog import Content
from common.config.node_images import check_node_images, check_teacher_images
from common.config.own_images import OwnImagesConfig
from common.config.profile import ProfileConfig
from common.config.sections import (
    AnyArchitecture,
    Architecture,
    BoundHost,
    CertificateHost,
    FilePath,
    Method,
    Name,
    Pixels,
    Section,
    Seed,
    check_student_architecture,
)

DATA_DIR_MISSING = (
    "data set 'folder' needs dataset.data_dir (--data-dir): a folder with "
    "train/CLASS/IMAGE and, if there is one, test/CLASS/IMAGE"
)


class DatasetConfig(Section):
    """Which images, and how many of them."""

    name: Literal["digits", "mnist", "fashion-mnist", "cifar10", "folder"] = "digits"
    data_dir: FilePath | None = None
    limit: int | None = Field(default=None, ge=20)
    """training images, stratified"""
    val_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """of the training images"""
    image_size: int | None = Field(default=None, ge=8, le=256)
    """folder only"""

    @property
    def is_embedded(self) -> bool:
        """Tell a data set that comes with takt: no folder is read for it."""
        return self.name == "digits"


class ThreatConfig(Section):
    """The threat model: which perturbations count."""

    norm: Literal["Linf"] = "Linf"
    eps: Pixels = 0.15


class AttackConfig(Section):
    """An iterated gradient attack (Madry et al., ICLR 2018)."""

    steps: int = Field(default=10, ge=1, le=1000)
    step_size: Pixels
    """pixel scale, like eps"""
    random_start: bool = True
    """PGD alone: trainings from kept deltas or wide noise have their own start"""
    restarts: int = Field(default=1, ge=1)
    """runs; the worst of each image counts (PGD alone)"""


class TeacherConfig(Section):
    """Stage 1: the teacher and its adversarial training."""

    model: Architecture
    objective: Literal["pgd_at", "trades", "mart", "n_fgsm"] = "trades"
    beta: float = Field(default=6.0, ge=0)
    """weight of the robust term"""
    attack: AttackConfig
    epochs: int = Field(ge=1)
    """passes over the training images"""
    batch_size: int = Field(default=128, ge=2)
    """over all workers"""
    learning_rate: float = Field(default=0.1, gt=0)
    """of SGD at its highest"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    eps_warmup_epochs: int = Field(default=2, ge=0)
    """half of the epochs at most"""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """0: no weight averaging"""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    awp_gamma: float = Field(default=0.0, ge=0)
    """0: no weight perturbation"""
    schedule: Literal["one_cycle", "cosine", "multi_step"] = "one_cycle"
    """of the learning rate; multi_step: a tenth at 215, 260 and 285 of 300 parts"""
    shift: int = Field(default=0, ge=0)
    """random translation, pixels each way"""
    flip: bool = False
    """random left-right mirroring"""
    compile: bool = False
    """torch.compile, on a GPU only"""
    all_images: bool = False
    """images = "all", as it was written before there was that key"""
    # Out of dumps unless `all_images` cannot say it.
    images: Literal["same", "all", "others"] = Field(
        default="same", exclude_if=lambda images: images != "others"
    )
    """it trains on what nodes hold (dataset.limit), on all, or on all others"""
    num_workers: int = Field(default=2, ge=1)
    """processes that train it together, a core or a GPU each"""
    min_workers: int | None = Field(default=None, ge=1)
    """train with as few as this while others are missing"""
    use_gpu: bool = False
    # Left out of dumps at its default, so that they are what they were before it.
    trial: bool = Field(default=False, exclude_if=lambda on: not on)
    """without a GPU, train two epochs on CPUs; release and results are marked"""
    max_failures: int = Field(default=3, ge=0)
    """killed workers that are replaced before it gives up"""
    store: str | None = None
    """where its checkpoints go: s3://..., gs://..., file://..."""

    @model_validator(mode="before")
    @classmethod
    def _read_all_images(cls, given: Any) -> Any:
        """Let `all_images` and `images` say the same, whichever is given."""
        if not isinstance(given, dict):
            return given
        if given.get("all_images") is True:
            images = given.get("images", "all")
            if images != "all":
                raise ValueError(
                    f'all_images = true is images = "all", but images = {images!r}; '
                    "leave all_images out"
                )
            return {**given, "images": "all"}
        is_all = given.get("images") == "all"
        return {**given, "all_images": True} if is_all else given

    @model_validator(mode="after")
    def _check_min_workers(self) -> "TeacherConfig":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers = {self.min_workers} is more than num_workers = "
                f"{self.num_workers}; lower it, or leave it out"
            )
        return self


def count_views(shift: int, flip: bool) -> int:
    """Count the different views of an image: crops, and mirrored ones."""
    return (2 * shift + 1) ** 2 * (1 + flip)


class KnowledgeConfig(Section):
    """What is extracted from the teacher, and how."""

    # In the ablation (tests/bench/README.md) deltas and boundary points did
    # not improve method takt; method bss reads boundary points.
    contents: tuple[Content, ...] = ("soft_labels",)
    temperature: float = Field(default=1.0, gt=0)
    attack: AttackConfig
    boundary_steps: int = Field(default=10, ge=1)
    boundary_step_size: float = Field(default=0.3, gt=0)
    """L2, see Heo et al. 2019"""
    num_actors: int = Field(default=2, ge=1)
    # Views of each image. A key at its default is left out of dumps, so that they are
    # what they were before there were views.
    num_views: int = Field(default=1, ge=1, exclude_if=lambda n: n == 1)
    """of each image that get soft labels; 1: itself alone"""
    shift: int = Field(default=0, ge=0, le=32, exclude_if=lambda n: n == 0)
    """of the views: random translation, pixels each way"""
    flip: bool = Field(default=False, exclude_if=lambda on: not on)
    """half of the views are mirrored, left-right"""
    images: Literal["same", "transfer"] = Field(
        default="same", exclude_if=lambda images: images == "same"
    )
    """same: nodes hold the cloud's, the cheapest release; transfer: it ships some"""
    num_images: int = Field(default=500, ge=20, exclude_if=lambda n: n == 500)
    """of a transfer set at most, stratified"""
    num_val_images: int = Field(default=100, ge=10, exclude_if=lambda n: n == 100)
    """shipped beside them at most, to measure students on; never trained on"""
    weights: bool = Field(default=False, exclude_if=lambda on: not on)
    """ship starting weights of each recipe, distilled in the cloud"""
    licence: str | None = Field(default=None, exclude_if=lambda text: text is None)
    """of shipped images; None: the public data set's own"""

    @model_validator(mode="after")
    def _check_num_views(self) -> "KnowledgeConfig":
        available = count_views(self.shift, self.flip)
        if self.num_views > available:
            raise ValueError(
                f"num_views = {self.num_views}, but an image has only {available} "
                f"different views; raise shift ({self.shift}) or set flip"
            )
        return self


class TuningConfig(Section):
    """How a student is trained further from the release's starting weights."""

    learning_rate: float = Field(default=0.125, gt=0, le=1)
    """in units of the recipe's"""
    epochs: int = Field(default=30, ge=1)
    """passes over the node's and the release's images; the full eps from the start"""


class StudentConfig(Section):
    """A distillation recipe; it travels inside the release's manifest.

    Its model is checked by `RunConfig` only: a node reads releases whose other
    students may have architectures of a later takt.
    """

    model: AnyArchitecture
    method: Method = "takt"
    attack: AttackConfig
    epochs: int = Field(ge=1)
    """passes over the images, where no budget of CPU-seconds decides"""
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=0.1, gt=0)
    """of SGD at its highest"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    eps_warmup_epochs: int = Field(default=2, ge=0)
    """half of the epochs at most"""
    noise: float = Field(default=1.0, ge=0)
    """uniform, in units of eps (method takt)"""
    beta: float = Field(default=6.0, ge=0)
    """weight of the robust term (trades)"""
    label_weight: float = Field(default=0.0, ge=0, le=1)
    """of the true label (takt)"""
    boundary_weight: float = Field(default=0.0, ge=0)
    """methods bss and takt"""
    jacobian_weight: float = Field(default=0.0, ge=0, exclude_if=lambda w: w == 0)
    """of the slope of the logits along random signs (all methods)"""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """0: no weight averaging"""
    schedule: Literal["one_cycle", "cosine", "multi_step"] = "one_cycle"
    """of the learning rate; multi_step: a tenth at 215, 260 and 285 of 300 parts"""
    max_gradient_norm: float = Field(default=1.0, ge=0)
    """0: no clipping"""
    num_views: int = Field(default=1, ge=1, exclude_if=lambda n: n == 1)
    """of each image, one after the other; [knowledge] says which"""
    own_views: int | None = Field(default=None, ge=1, exclude_if=lambda n: n is None)
    """of each image of the node's own; None: num_views"""
    tuning: TuningConfig | None = Field(default=None, exclude_if=lambda t: t is None)
    """where the release has starting weights; None: their defaults"""


def _check_model(recipe: StudentConfig) -> StudentConfig:
    """Check that a recipe's architecture can be built here, and serves as a student."""
    check_student_architecture(recipe.model)
    return recipe


class CandidateConfig(Section):
    """A teacher to try; what is left out is as in [teacher] and [knowledge]."""

    model: Architecture | None = None
    objective: Literal["pgd_at", "trades", "mart", "n_fgsm"] | None = None
    beta: float | None = Field(default=None, ge=0)
    epochs: int | None = Field(default=None, ge=1)
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    awp_gamma: float | None = Field(default=None, ge=0)
    shift: int | None = Field(default=None, ge=0)
    flip: bool | None = None
    temperature: float | None = Field(default=None, gt=0)
    """of the soft labels"""


class ChoiceConfig(Section):
    """Teachers to try; the one whose student is best on validation images is taken."""

    student: Name
    """a key of [students], trained for its epochs"""
    seeds: tuple[Seed, ...] = Field(default=(0, 1), min_length=1)
    """of that student"""
    candidates: dict[Name, CandidateConfig] = Field(min_length=2)


class EvaluationConfig(Section):
    """How many images each robust accuracy is measured on, and with what."""

    autoattack_images: int = Field(default=500, ge=1)
    """per student; capped by the set"""
    teacher_images: int = Field(default=200, ge=1)
    node_attack: AttackConfig
    """the node's own check before it promotes"""


class NodeConfig(Section):
    """One simulated edge node."""

    name: Name
    student: Name
    """a key of [students]"""
    profile: ProfileConfig
    data: OwnImagesConfig | None = None
    """images of its own; None: the cloud's (images = "same"), or none"""
    max_forgetting: float = Field(default=0.02, ge=0, le=1)
    """robust accuracy on the release's images that its new student may lose"""


class GatewayConfig(Section):
    """Where the gateway listens; port 0 takes a free one."""

    host: BoundHost = "127.0.0.1"
    names: tuple[CertificateHost, ...] = ()
    """host names by which nodes reach it; they are given the first"""
    port: int = Field(default=0, ge=0, le=65535)
    enroll_port: int = Field(default=0, ge=0, le=65535)
    status_page: bool = True
    """over HTTP, for people, programs (/status.json) and Prometheus (/metrics)"""
    status_host: BoundHost = "localhost"
    """who reaches it may read it: no login, no TLS"""
    status_port: int = Field(default=0, ge=0, le=65535)
    max_streams_per_node: int = Field(default=8, ge=1)
    max_connections_per_address: int = Field(default=256, ge=1)
    """to each port, 64 at most to enrol; raise it where more nodes share an address"""
    node_days: float = Field(default=30, gt=0)
    """life of a node's certificate; the node renews it in the last third"""
    server_days: float = Field(default=365, gt=0)
    """life of the gateway's own certificate, renewed likewise while it runs"""
    live_teacher: bool = False
    """answer nodes that ask the teacher about their own images (share_images)"""


class RunConfig(Section):
    """A whole run: the cloud job, its recipes and the simulated nodes."""

    channel: Name
    seed: Seed = 0
    dataset: DatasetConfig
    threat: ThreatConfig
    teacher: TeacherConfig
    knowledge: KnowledgeConfig
    choice: ChoiceConfig | None = None
    """left out: one teacher, as [teacher] says"""
    students: dict[Name, Annotated[StudentConfig, AfterValidator(_check_model)]] = (
        Field(min_length=1)
    )
    nodes: tuple[NodeConfig, ...] = ()
    num_nodes: int | None = Field(default=None, ge=1, le=1000)
    """None: as listed; beyond that the list repeats: sensor-2, ..."""
    class_skew: float | None = Field(default=None, gt=0)
    """alpha of the Dirichlet distribution of each node's class shares; None: even"""
    gateway: GatewayConfig = GatewayConfig()
    evaluation: EvaluationConfig

    @model_validator(mode="after")
    def _repeat_nodes(self) -> "RunConfig":
        if self.num_nodes is None or self.num_nodes == len(self.nodes):
            return self
        if not self.nodes:
            raise ValueError("num_nodes is set, but there are no [[nodes]] to repeat")
        nodes = []
        for index in range(self.num_nodes):
            repeat, position = divmod(index, len(self.nodes))
            node = self.nodes[position]
            name = f"{node.name}-{repeat + 1}" if repeat else node.name
            nodes.append(node.model_copy(update={"name": name}))
        return self.model_copy(update={"nodes": tuple(nodes)})

    @model_validator(mode="after")
    def _check_names(self) -> "RunConfig":
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two nodes are called '{name}'; names must differ")
        if self.choice is not None and self.choice.student not in self.students:
            raise ValueError(
                f"choice.student = '{self.choice.student}', but [students] has only "
                f"{sorted(self.students)}"
            )
        for node in self.nodes:
            if node.student not in self.students:
                raise ValueError(
                    f"node '{node.name}' wants student '{node.student}', but "
                    f"[students] has only {sorted(self.students)}"
                )
        return self

    @model_validator(mode="after")
    def _check_node_images(self) -> "RunConfig":
        check_teacher_images(self)
        check_node_images(self)
        return self
