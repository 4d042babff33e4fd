"""What a node's student is seen beside: which training goes without what."""

from release_drafts import draft

from common.catalog import contents_for
from common.records import Evaluation
from common.release import Manifest, WeightsInfo
from deploy.simulation.references import (
    from_random_weights,
    natural_twin,
    with_pgd_at,
)


def shipping() -> Manifest:
    """A release with starting weights of its student."""
    robust = Evaluation(
        attack="pgd",
        version="3 steps",
        norm="Linf",
        eps=0.15,
        num_images=9,
        accuracy=0.5,
        seed=0,
    )
    weights = WeightsInfo(
        path="digits/1/weights-tiny.safetensors",
        num_bytes=9,
        sha256="0" * 64,
        architecture="cnn_tiny",
        num_parameters=1,
        clean_accuracy=0.5,
        robust=robust,
    )
    return draft(weights={"tiny": weights})


def test_the_baseline_of_pgd_at_begins_without_weights_of_the_teachers_knowledge() -> (
    None
):
    manifest = with_pgd_at(shipping(), "tiny")
    assert manifest.students["tiny"].method == "pgd_at"
    assert manifest.weights == {}


def test_the_baseline_without_a_teacher_begins_at_none_of_the_teachers_weights() -> (
    None
):
    manifest = from_random_weights(shipping(), "tiny")
    assert manifest.weights == {}
    assert manifest.students == {"tiny": shipping().students["tiny"]}
    assert manifest.shards == shipping().shards


def test_a_natural_twin_has_the_students_model_and_nothing_of_the_teacher() -> None:
    manifest = shipping()
    twin = natural_twin(manifest, "tiny")
    assert twin.students["tiny"].method == "natural"
    assert twin.students["tiny"].model == manifest.students["tiny"].model
    assert twin.weights == {}
    assert contents_for("natural", manifest.students["tiny"].boundary_weight) == set()
