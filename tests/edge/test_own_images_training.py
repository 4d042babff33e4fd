"""Training on the release's images and on a node's own: who is shown, and as what."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distill_site import EPS, recipe, write_release
from torch import Tensor

from common.config import DatasetConfig, StudentConfig, TuningConfig
from common.data.datasets import load_dataset
from common.data.views import Views
from common.errors import DataError, Interrupted
from common.models.zoo import build_model
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import fit_student
from edge.distill.fitting.training import Training
from edge.distill.knowledge import (
    NO_KNOWLEDGE,
    BoundaryPoints,
    Knowledge,
    read_knowledge,
    read_manifest,
)
from edge.distill.sources.joined import OwnKnowledge, joined
from edge.distill.sources.sampler import Sampler
from edge.distill.task import Task

NUM_RELEASED, NUM_OWN = 200, 60


def shown_by(sampler: Sampler, seed: int = 0) -> tuple[Tensor, ...]:
    return sampler.epoch(torch.Generator().manual_seed(seed))


def test_half_of_each_batch_is_of_the_release_and_half_of_the_nodes_own() -> None:
    batches = shown_by(Sampler(torch.arange(1000), 900, 64))
    assert {(len(b), int((b >= 900).sum())) for b in batches} == {(64, 32)}


def test_in_a_batch_no_image_occurs_twice_and_all_occur_equally_often() -> None:
    sampler = Sampler(torch.arange(1000), 945, 64)  # 55 own: no multiple of the half
    batches = shown_by(sampler)
    assert all(len({*batch.tolist()}) == len(batch) for batch in batches)
    times = torch.cat(batches).bincount(minlength=1000)
    assert times[945:].max() - times[945:].min() <= 1
    assert times[:945].max() <= 1


@pytest.mark.parametrize(("num_released", "own"), [(990, 10), (10, 54)])
def test_a_source_with_less_than_half_a_batch_is_filled_up_by_the_other(
    num_released: int, own: int
) -> None:
    batches = shown_by(Sampler(torch.arange(1000), num_released, 64))
    assert {(len(b), int((b >= num_released).sum())) for b in batches} == {(64, own)}


def test_one_source_is_passed_over_once_an_epoch_in_the_order_of_old() -> None:
    for num_released in (0, 100):
        batches = shown_by(Sampler(torch.arange(100), num_released, 32), seed=3)
        order = torch.randperm(100, generator=torch.Generator().manual_seed(3))
        assert torch.equal(
            torch.cat(batches), order[:96]
        )  # 4 are less than half a batch


def images(first: int, num: int, *, unlabelled: int = 0) -> Images:
    split = load_dataset(DatasetConfig(), seed=0).train
    y = torch.from_numpy(split.labels[first : first + num].copy())
    y[:unlabelled] = -1
    return Images(torch.from_numpy(split.images[first : first + num]), y)


def both_kinds(released: Images, own: Images) -> Images:
    return Images(torch.cat([released.x, own.x]), torch.cat([released.y, own.y]))


def soft_labels_of(num: int, *views: int) -> Tensor:
    generator = torch.Generator().manual_seed(num)
    return torch.softmax(3 * torch.rand(num, *views, 10, generator=generator), -1)


def answers(num_views: int) -> Tensor:
    generator = torch.Generator().manual_seed(NUM_OWN)
    return 3 * torch.rand(NUM_OWN, num_views, 10, generator=generator).half()


def task(own: OwnKnowledge | None = None, *, unlabelled: int = 0, **how: Any) -> Task:
    """A task on released images, which have soft labels, and on own ones."""
    released = Knowledge(soft_labels=soft_labels_of(NUM_RELEASED))
    others = images(NUM_RELEASED, NUM_OWN, unlabelled=unlabelled)
    values = {
        "train": both_kinds(images(0, NUM_RELEASED), others),
        "num_released": NUM_RELEASED,
        "val": Images.of(load_dataset(DatasetConfig(), seed=0).val),
        "knowledge": joined(released, NUM_RELEASED, own or OwnKnowledge(NUM_OWN)),
        "num_classes": 10,
        "eps": EPS,
    }
    return Task(**{**values, **how})


def own_views(num_views: int) -> Views:
    return Views.draw(NUM_OWN, num_views, shift=1, flip=False, seed=5)


def test_own_images_that_the_teacher_was_not_asked_about_are_taught_by_labels() -> None:
    training = Training(recipe(label_weight=0.5), task())
    batch = training.batch(torch.tensor([3, NUM_RELEASED + 3]), EPS)
    assert batch.taught is not None
    assert batch.taught.tolist() == [True, False]


def test_each_image_goes_through_its_own_number_of_views_in_turn() -> None:
    given = task(OwnKnowledge(NUM_OWN, own_views(3)))
    training = Training(recipe(), given)
    views = given.knowledge.views
    assert views is not None
    rows = torch.tensor([0, NUM_RELEASED])
    seen: list[list[int]] = []
    for _ in range(6):
        seen.append(views.turn(rows, training.sampler.passes(rows, 0)).tolist())
        training.step(rows)
    assert [released for released, _ in seen] == [0] * 6
    assert sorted(view for _, view in seen) == [0, 0, 1, 1, 2, 2]


def test_soft_labels_stay_with_their_images_whatever_the_numbers_of_views() -> None:
    given = task(OwnKnowledge(NUM_OWN, own_views(3), answers(3)))
    knowledge, released = given.knowledge, soft_labels_of(NUM_RELEASED)
    rows = torch.tensor([7, NUM_RELEASED + 7])
    found = knowledge.labels_of(rows, torch.tensor([0, 2]))
    assert found is not None
    own = torch.softmax(answers(3)[7, 2].float(), 0)
    assert torch.equal(found, torch.stack([released[7], own]))
    assert knowledge.taught is None


def test_what_the_teacher_answered_about_own_images_is_held_once() -> None:
    own = answers(3)
    knowledge = task(OwnKnowledge(NUM_OWN, own_views(3), own)).knowledge
    assert knowledge.own is not None and knowledge.soft_labels is not None
    assert knowledge.own.logits.data_ptr() == own.data_ptr()
    assert len(knowledge.soft_labels) == NUM_RELEASED


def test_labels_of_own_images_are_softened_as_if_all_were_at_once() -> None:
    released = Knowledge(temperature=2.0, soft_labels=soft_labels_of(NUM_RELEASED))
    own = OwnKnowledge(NUM_OWN, own_views(3), answers(3))
    knowledge = joined(released, NUM_RELEASED, own)
    whole = knowledge.stacked()
    rows = torch.arange(NUM_RELEASED, NUM_RELEASED + NUM_OWN)
    found = knowledge.labels_of(rows, torch.ones_like(rows))
    assert whole is not None and found is not None
    assert torch.equal(found, torch.softmax(answers(3).float() / 2, 2)[:, 1])
    assert torch.equal(found, whole[NUM_RELEASED:, 1])
    assert torch.equal(whole[:NUM_RELEASED, 0], soft_labels_of(NUM_RELEASED))


def test_own_images_alone_that_the_teacher_answered_about_need_no_released_labels() -> (
    None
):
    knowledge = joined(NO_KNOWLEDGE, 0, OwnKnowledge(NUM_OWN, None, answers(1)))
    found = knowledge.labels_of(torch.tensor([7]), None)
    assert found is not None
    assert torch.equal(found[0], torch.softmax(answers(1)[7, 0].float(), 0))


def test_a_control_of_soft_labels_smooths_those_of_own_images_too() -> None:
    given = task(OwnKnowledge(NUM_OWN, own_views(3), answers(3)))
    batch = Training(recipe(method="label_smoothing"), given).batch(
        torch.tensor([3, NUM_RELEASED + 3]), EPS
    )
    assert batch.soft_labels is not None
    highest = batch.soft_labels.amax(1)
    assert torch.equal(highest[0], highest[1])


def test_an_image_without_a_label_is_left_out_where_the_method_needs_one() -> None:
    training = Training(recipe(method="warm_at"), task(unlabelled=20))
    shown = torch.cat(training.sampler.epoch(training.generator))
    absent = set(range(NUM_RELEASED, NUM_RELEASED + 20))
    assert not absent & set(shown.tolist())
    assert set(range(NUM_RELEASED + 20, NUM_RELEASED + NUM_OWN)) <= set(shown.tolist())


def test_a_method_that_needs_soft_labels_trains_on_the_images_that_have_some() -> None:
    training = Training(recipe(method="rslad"), task())
    shown = torch.cat(training.sampler.epoch(training.generator))
    assert int(shown.max()) < NUM_RELEASED


def test_own_images_without_any_label_alone_are_refused_in_one_line() -> None:
    alone = replace(
        task(),
        train=images(0, 30, unlabelled=30),
        num_released=0,
        knowledge=NO_KNOWLEDGE,
    )
    with pytest.raises(DataError, match=r"none of the 30 .* has labels"):
        fit_student(recipe(method="warm_at"), alone)


def test_own_images_have_no_boundary_points_and_the_release_keeps_its() -> None:
    points = BoundaryPoints(
        np.zeros((NUM_RELEASED, 1, 8, 8), np.int8),
        np.ones(NUM_RELEASED, np.float16),
        soft_labels_of(NUM_RELEASED),
    )
    given = task()
    given = replace(given, knowledge=replace(given.knowledge, boundary=points))
    training = Training(recipe(boundary_weight=0.5), given)
    rows = torch.tensor([NUM_RELEASED, 3])
    boundary = training.batch(rows, EPS).boundary
    assert boundary is not None
    assert torch.equal(boundary.x, given.train.batch(torch.tensor([3]))[0])
    training.step(rows)


def test_shipped_deltas_are_of_the_release_and_others_begin_at_noise(
    tmp_path: Path,
) -> None:
    knowledge = read_knowledge(
        read_manifest(write_release(tmp_path)), tmp_path, recipe()
    )
    shipped = knowledge.delta_signs
    assert shipped is not None
    given = task()
    some = replace(given.knowledge, delta_signs=shipped[:NUM_RELEASED])
    training = Training(recipe(), replace(given, knowledge=some))
    assert training.memory is not None
    signs = training.memory.tensor().numpy()
    assert (signs[:NUM_RELEASED] == shipped[:NUM_RELEASED]).all()
    assert len(np.unique(signs[NUM_RELEASED:], axis=0)) == NUM_OWN


MIXED = {"label_weight": 0.3, "epochs": 6}


@pytest.mark.parametrize("method", ["takt", "warm_at"])
def test_a_training_on_both_that_was_stopped_repeats_exactly(
    method: str, tmp_path: Path
) -> None:
    given = task(OwnKnowledge(NUM_OWN, own_views(3)), unlabelled=20)
    how = recipe(method=method, batch_size=32, **MIXED)
    whole = fit_student(how, given).model.state_dict()
    file, steps = CheckpointFile(tmp_path / "checkpoint"), count()
    with pytest.raises(Interrupted):
        fit_student(
            how, given, checkpoint=file, should_stop=lambda: next(steps) > 28
        )  # in the fourth of six epochs
    resumed = fit_student(how, given, checkpoint=file).model.state_dict()
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def started(given: StudentConfig, **how: Any) -> Training:
    torch.manual_seed(1)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    return Training(given, task(start=model.state_dict(), **how))


def test_given_weights_are_where_a_training_starts() -> None:
    training = started(recipe())
    start = training.task.start
    assert start is not None
    weights = training.learner.weights()
    assert all(torch.equal(weights[name], value) for name, value in start.items())


def test_from_given_weights_a_training_is_as_the_recipes_tuning_says() -> None:
    tuning = TuningConfig(learning_rate=0.25, epochs=3)
    training = started(recipe(learning_rate=0.4, tuning=tuning))
    assert training.recipe.learning_rate == pytest.approx(0.1)
    assert (training.recipe.epochs, training.recipe.eps_warmup_epochs) == (3, 0)
    assert Training(recipe(tuning=tuning), task()).recipe.epochs == recipe().epochs
