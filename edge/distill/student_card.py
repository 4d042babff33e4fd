"""The card of a release's student. Not here: teachers (cloud.training.teacher_card)."""

from common.config import StudentConfig
from common.models.card import ModelCard
from common.release import Manifest


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
    )
