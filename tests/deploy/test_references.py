"""What a node's student is seen beside: which training goes without what."""

from release_drafts import draft

from common.records import Evaluation
from common.release import WeightsInfo
from deploy.simulation.references import with_pgd_at


def test_the_baseline_of_pgd_at_begins_without_weights_of_the_teachers_knowledge() -> (
    None
):
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
    manifest = with_pgd_at(draft(weights={"tiny": weights}), "tiny")
    assert manifest.students["tiny"].method == "pgd_at"
    assert manifest.weights == {}
