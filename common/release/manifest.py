"""The manifest of a release: its signed table of contents, as records.

Not here: its JSON, and what is refused of it (`manifest_file.py`), what the shards'
bytes look like (`shards.py`), signatures and trust (the TUF metadata around the
manifest). Torch-free.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from common.catalog import OPTIONAL, contents_for
from common.config import KnowledgeConfig, StudentConfig, count_views
from common.errors import ConfigError
from common.models.card import ModelCard
from common.records import Evaluation, Record

MAX_SHARD_BYTES = 4 * 1024 * 1024
# 1: no views, and other deltas; 2: no images and no weights, and contents that
# nobody read
SCHEMA = 3
MAX_WEIGHTS_BYTES = 64 * 1024 * 1024


class CandidateScore(Record):
    """A candidate's own PGD accuracy and its student's, on validation images."""

    candidate: str
    teacher_robust_accuracy: float
    student_robust_accuracy: float  # the mean over seeds


class TeacherChoice(Record):
    """Why this teacher, of several."""

    candidate: str
    student: str  # whose robust accuracy decided
    temperature: float  # of the soft labels, chosen as well
    num_images: int
    scores: tuple[CandidateScore, ...]


class TeacherCard(Record):
    """Who the teacher is and how good it was found to be."""

    architecture: str
    num_parameters: int
    weights_sha256: str
    clean_accuracy: float
    robust: tuple[Evaluation, ...]
    choice: TeacherChoice | None = None  # None: it was the only one
    # Two epochs on CPUs, for want of a GPU (teacher.trial); no result, but a rehearsal.
    trial: bool = Field(default=False, exclude_if=lambda on: not on)


class ShardInfo(Record):
    """One shard of a release: samples [first, first + num_samples)."""

    path: str  # of the TUF target, "<channel>/<version>/<file>"
    # Of common.catalog; those of an older or a later takt are passed over.
    content: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    view: int = Field(default=0, ge=0, exclude_if=lambda v: v == 0)  # of its samples
    first: int = Field(ge=0)
    num_samples: int = Field(ge=1)
    num_bytes: int = Field(ge=1, le=MAX_SHARD_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class WeightsInfo(Record):
    """Starting weights of one recipe: a model file (common.models.files) in fp16."""

    path: str  # of the TUF target, "<channel>/<version>/<file>"
    num_bytes: int = Field(ge=1, le=MAX_WEIGHTS_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    architecture: str
    num_parameters: int
    clean_accuracy: float  # on the release's validation images
    robust: Evaluation  # the same


class Manifest(Record):
    """The signed table of contents of one release."""

    schema_version: int = SCHEMA
    channel: str
    version: int = Field(ge=1)
    dataset: str
    fingerprint: str  # of the training split: pixels, labels and their order
    num_samples: int = Field(ge=1)
    sample_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    class_names: tuple[str, ...] = Field(min_length=2)
    norm: Literal["Linf"]
    eps: float = Field(gt=0, le=1)
    temperature: float = Field(gt=0)
    # Views of each sample that have soft labels, and what views there are; `seed`
    # decides which (common.data.views). Releases from before there were views have one.
    num_views: int = Field(default=1, ge=1, exclude_if=lambda n: n == 1)
    shift: int = Field(default=0, ge=0, le=32, exclude_if=lambda n: n == 0)
    flip: bool = Field(default=False, exclude_if=lambda on: not on)
    # same: nodes hold the cloud's training images, sample i being sample i; transfer:
    # the release carries its images, and `fingerprint` is of these.
    images: Literal["same", "transfer"] = Field(
        default="same", exclude_if=lambda images: images == "same"
    )
    num_val: int = Field(default=0, ge=0, exclude_if=lambda n: n == 0)  # val_images
    source: str = Field(default="", exclude_if=lambda text: not text)  # of the images
    licence: str = Field(default="", exclude_if=lambda text: not text)
    seed: int
    val_fraction: float
    limit: int | None
    image_size: int | None
    teacher: TeacherCard
    students: dict[str, StudentConfig]
    node_attack_steps: int = Field(ge=1)
    node_attack_step_size: float = Field(gt=0)
    shards: tuple[ShardInfo, ...]
    # Starting weights by student.
    weights: dict[str, WeightsInfo] = Field(
        default_factory=dict, exclude_if=lambda weights: not weights
    )

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.class_names)

    @property
    def num_bytes(self) -> int:
        """Count the bytes of all shards and starting weights."""
        files = [shard.num_bytes for shard in self.shards]
        return sum(files) + sum(w.num_bytes for w in self.weights.values())

    def shards_for(
        self, contents: frozenset[str], num_views: int = 1
    ) -> tuple[ShardInfo, ...]:
        """List the shards that hold any of `contents` of the first `num_views`."""
        return tuple(
            s for s in self.shards if s.content in contents and s.view < num_views
        )

    def bytes_per_sample(self) -> dict[str, float]:
        """Measure what each content costs, all views and shard headers included.

        Starting weights are among them, as "weights".
        """
        totals: dict[str, float] = {}
        for shard in self.shards:
            totals[shard.content] = totals.get(shard.content, 0) + shard.num_bytes
        if self.weights:
            totals["weights"] = sum(w.num_bytes for w in self.weights.values())
        return {content: num / self.num_samples for content, num in totals.items()}


def recipe_of(manifest: Manifest, student: str) -> StudentConfig:
    """Look up a student's recipe.

    Raises:
        ConfigError: the release has none of that name.
    """
    recipe = manifest.students.get(student)
    if recipe is None:
        raise ConfigError(
            f"release {manifest.channel} {manifest.version} has no student "
            f"'{student}', it has {', '.join(sorted(manifest.students))}; set "
            "`student` in edge.toml"
        )
    return recipe


def student_card(manifest: Manifest, recipe: StudentConfig, *, seed: int) -> ModelCard:
    """Describe a student that a recipe made of a release with a seed."""
    channels, size, _ = manifest.sample_shape
    return ModelCard(
        architecture=recipe.model,
        in_channels=channels,
        image_size=size,
        num_classes=manifest.num_classes,
        class_names=manifest.class_names,
        dataset=manifest.dataset,
        fingerprint=manifest.fingerprint,
        norm=manifest.norm,
        eps=manifest.eps,
        seed=seed,
        val_fraction=manifest.val_fraction,
        limit=manifest.limit,
        method=recipe.method,
        channel=manifest.channel,
        version=manifest.version,
        images=manifest.images,
    )


def is_version(value: object) -> bool:
    """Tell a version that a channel's pointer may name: 1 to 2**53 - 1.

    Beyond that JSON's numbers are not exact everywhere.
    """
    return isinstance(value, int) and 0 < value < 2**53


def check_contents(recipe: StudentConfig, knowledge: KnowledgeConfig) -> None:
    """Check that a release will hold what a recipe reads.

    Raises:
        ConfigError: it leaves something out.
    """
    needed = contents_for(recipe.method, recipe.boundary_weight) - OPTIONAL
    missing = needed - {*knowledge.contents}
    if missing:
        what = " and ".join(sorted(missing))
        raise ConfigError(
            f"a student ({recipe.model}, {recipe.method}) reads {what}, which "
            "knowledge.contents leaves out; add it there, or change the method"
        )


def check_views(recipe: StudentConfig, source: KnowledgeConfig | Manifest) -> None:
    """Check that there are as many views as a recipe trains on.

    Raises:
        ConfigError: there are fewer, or fewer with soft labels where it reads these.
    """
    count, which = count_views(source.shift, source.flip), "different views of an image"
    if "soft_labels" in contents_for(recipe.method, recipe.boundary_weight):
        count, which = source.num_views, "views with soft labels (knowledge.num_views)"
    if recipe.num_views > count:
        raise ConfigError(
            f"num_views = {recipe.num_views} of a student ({recipe.model}, "
            f"{recipe.method}), but there are {count} {which}; lower it, or raise "
            "num_views, shift or flip of [knowledge]"
        )
    own, count = recipe.own_views or 1, count_views(source.shift, source.flip)
    if own > count:
        raise ConfigError(
            f"own_views = {own} of a student ({recipe.model}, {recipe.method}), but "
            f"there are {count} different views of an image; lower it, or raise shift "
            "or flip of [knowledge]"
        )
