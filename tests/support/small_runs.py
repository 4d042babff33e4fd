"""Configs of runs on digits that take seconds, and cards of models made for a test."""

from typing import Any

from common.config import (
    AttackConfig,
    DatasetConfig,
    EvaluationConfig,
    KnowledgeConfig,
    RunConfig,
    StudentConfig,
    TeacherConfig,
    ThreatConfig,
)
from common.models.card import ModelCard

EPS = 0.15
TINY_ATTACK = AttackConfig(steps=2, step_size=0.1)  # of `tiny_run`


def small_run(
    attack: AttackConfig,
    /,
    *,
    limit: int | None = 400,
    knowledge: dict[str, Any] | None = None,
    students: dict[str, StudentConfig] | None = None,
    evaluation: AttackConfig | None = None,
    **teacher: Any,
) -> RunConfig:
    """Make a config whose teacher, knowledge and student use one attack.

    Args:
        attack: of all of them, unless one has its own.
        limit: of the training images.
        knowledge: keys of [knowledge] besides the attack.
        students: default: one cnn_tiny of one epoch.
        evaluation: the node's attack, if it is another.
        teacher: keys of [teacher]; its own attack may be among them.
    """
    return RunConfig(
        channel="test",
        dataset=DatasetConfig(name="digits", limit=limit),
        threat=ThreatConfig(eps=EPS),
        teacher=TeacherConfig.model_validate({"attack": attack} | teacher),
        knowledge=KnowledgeConfig.model_validate(
            {"attack": attack} | (knowledge or {})
        ),
        students=students
        or {"tiny": StudentConfig(model="cnn_tiny", attack=attack, epochs=1)},
        evaluation=EvaluationConfig(node_attack=evaluation or attack),
    )


def tiny_run(**teacher: Any) -> RunConfig:
    """Make a config of 200 images, whose teacher trains three epochs in a second."""
    settings: dict[str, Any] = {
        "model": "cnn_small",
        "epochs": 3,
        "batch_size": 32,
        "eps_warmup_epochs": 1,
    }
    return small_run(TINY_ATTACK, limit=200, **(settings | teacher))


def small_card(**changes: Any) -> ModelCard:
    """Make the card of a cnn_tiny for digits."""
    card = ModelCard(
        architecture="cnn_tiny",
        in_channels=1,
        image_size=8,
        num_classes=10,
        class_names=tuple("0123456789"),
        dataset="digits",
        fingerprint="f" * 64,
        eps=EPS,
        seed=0,
        val_fraction=0.1,
    )
    return card.model_copy(update=changes)
