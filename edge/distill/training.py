"""One training of a student under way: its steps, epochs and milestones.

All schedules follow the share of the work that is done, of so many epochs or of
so many CPU-seconds. At sixteen milestones the student is measured on validation
images; one that has collapsed to one class is started again once, more gently, and
one that only deceives the attack it is trained with goes on with more steps of it.
Not here: the methods (losses.py), checkpoints on disk and the end (fit.py).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from common.config import StudentConfig
from common.data.views import show
from common.errors import Interrupted
from common.models.forward import Model
from common.models.zoo import build_model
from common.optim import schedule, warmed_up
from common.robustness.attacks import pgd
from common.robustness.evaluate import is_collapsed, predict
from edge.distill.batch import Batch, Images, Setting
from edge.distill.checkpoint import FitState
from edge.distill.class_temperatures import ClassTemperatures
from edge.distill.delta_memory import DeltaMemory
from edge.distill.knowledge import Knowledge
from edge.distill.learner import Learner, under
from edge.distill.losses import method
from edge.distill.overfitting import MOST_STEPS, Attacked, has_parted
from edge.jobs.job import CurvePoint

MILESTONES = 16
_MONITORED = 128  # validation images at a milestone
_MONITOR_STEPS = 5  # of PGD there; all of this stays near a tenth of the training
_JUDGED_FROM = 0.3  # of the training: earlier, one answer for all is no collapse
_LEAST_EPS = 0.01  # of eps, while it warms up


class Training:
    """One training under way."""

    def __init__(
        self,
        recipe: StudentConfig,
        train: Images,
        val: Images,
        knowledge: Knowledge,
        *,
        num_classes: int,
        eps: float,
        seed: int,
        batch_size: int | None,
        cpu_budget_s: float | None,
        clock: Callable[[], float],
        state: FitState,
        safeguard: bool = True,
        teacher: Model | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Begin the state's attempt; see `fit.fit_student` for the rest."""
        self.recipe = recipe
        self.device = device or torch.device("cpu")
        self.train = train.to(self.device)
        self.val = Images(val.x[:_MONITORED], val.y[:_MONITORED])
        self.knowledge = knowledge.to(self.device)
        self.num_classes = num_classes
        self.eps = eps
        self.seed = seed
        self.batch_size = min(batch_size or recipe.batch_size, len(train.y))
        self.budget_s = cpu_budget_s
        self.clock = clock
        self.safeguard = safeguard
        self.teacher = teacher
        self.method = method(recipe.method)
        self.rate = schedule(recipe.schedule)
        self.state = state
        self.begin()

    def begin(self) -> None:
        """Start the state's attempt with fresh weights."""
        seed = self.seed + 1_000_003 * self.state.attempt
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = self.generator  # of the attacks
        if self.device.type != "cpu":
            self.noise = torch.Generator(self.device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(
                self.recipe.model,
                in_channels=self.train.x.shape[1],
                image_size=self.train.x.shape[2],
                num_classes=self.num_classes,
            )
        self.learner = Learner(model.to(self.device), self.recipe)
        self.best: dict[str, Tensor] = {}
        self.temperatures: ClassTemperatures | None = None
        if self.method.adapts_temperatures:
            self.temperatures = ClassTemperatures(self.num_classes)
        self.memory: DeltaMemory | None = None
        if self.method.keeps_deltas:
            views = self.knowledge.views
            self.memory = DeltaMemory.start(
                self.train.x,
                self.knowledge.delta_signs,
                self.generator,
                margin=0 if views is None else views.shift,
                device=self.device,
            )

    def progress(self) -> float:
        """Say which share of this attempt is done."""
        state = self.state
        if self.budget_s is None:
            return state.step / (self.recipe.epochs * self.steps_per_epoch())
        used = state.distil_s - state.attempt_began_s
        # A second attempt after the whole budget still gets a third of one.
        budget = self.budget_s - state.attempt_began_s
        return used / max(budget, self.budget_s / 3)

    def steps_per_epoch(self) -> int:
        """Count the batches; a rest of less than half a batch is left out."""
        return max(1, round(len(self.train.y) / self.batch_size))

    def epoch(self, should_stop: Callable[[], bool]) -> CurvePoint:
        """Train one epoch, or what the budget leaves of one; watch at milestones."""
        order = torch.randperm(len(self.train.y), generator=self.generator)
        attacked: Attacked | None = None
        for positions in torch.split(order, self.batch_size)[: self.steps_per_epoch()]:
            if should_stop():
                raise Interrupted("stopped while training; the last checkpoint stays")
            if self.progress() >= 1:
                break
            attacked = self.step(positions)
        if self.temperatures is not None:
            self.temperatures.end_epoch()
        state = self.state
        state.epoch += 1
        done = min(self.progress(), 1.0)
        began = state.attempt_began_epoch
        epochs = began + max(1, round((state.epoch - began) / done))
        clean, robust, collapsed = None, None, False
        self.at_milestone = math.floor(done * MILESTONES) > state.milestone
        if self.at_milestone:
            state.milestone = math.floor(done * MILESTONES)
            clean, robust, collapsed = self.watch()
            if attacked is not None and self.safeguard:
                self.guard(attacked)
        point = CurvePoint(
            epoch=state.epoch,
            epochs=max(state.epoch, epochs),
            cpu_s=state.distil_s,
            clean_accuracy=clean,
            robust_accuracy=robust,
        )
        state.curve.append(point)
        if collapsed and done >= _JUDGED_FROM and not state.attempt:
            state.retry()
            self.begin()
        return point

    def step(self, positions: Tensor) -> Attacked | None:
        """Train on one batch; return how it was attacked, if it was."""
        began = self.clock()
        progress, state = self.progress(), self.state
        warmup = min(self.recipe.eps_warmup_epochs / self.recipe.epochs, 0.5)
        rate = self.recipe.learning_rate * self.rate(progress)
        if state.attempt:  # after a collapse: more gently
            warmup, rate = max(2 * warmup, 0.5), rate / 3
        share = max(warmed_up(progress, warmup), _LEAST_EPS)
        attack, more = self.recipe.attack, 2**state.doublings
        setting = Setting(
            recipe=self.recipe,
            eps=self.eps * share,
            steps=attack.steps * more,
            step_size=attack.step_size * share / more,
            progress=progress,
            temperature=self.knowledge.temperature,
            generator=self.noise,
            class_temperatures=self.temperatures,
            teacher=self.teacher,
        )
        batch = self.batch(positions, setting.eps)
        delta = None
        if self.method.craft is not None:
            self.learner.hold()
            attacked = self.clock()
            delta = self.method.craft(self.learner.answer, batch, setting)
            state.attack_s += self.clock() - attacked
            self.learner.release()
            if self.memory is not None:
                at = positions.to(self.device)
                self.memory.keep(at, delta, batch.x, batch.place)
        loss = self.method.loss(self.learner.answer, batch, delta, setting)
        self.learner.step(loss, rate)
        state.step += 1
        state.distil_s += self.clock() - began
        return None if delta is None else Attacked(batch.x, batch.y, delta, setting.eps)

    def batch(self, positions: Tensor, eps: float) -> Batch:
        """Put together what is known of some samples, in their view of this epoch."""
        know, at, index = self.knowledge, positions.to(self.device), None
        plain, y = self.train.batch(at)
        x = plain
        labelled: tuple[Tensor, ...] = (at,)
        if know.views is not None:
            # A sample's views take turns; neighbours are a view apart.
            view = (positions + self.state.epoch) % know.views.drawn.shape[1]
            height, width = plain.shape[2:]
            index = know.views.index(positions, view, height, width, self.device)
            x = show(plain, index, know.views.shift)
            labelled = (at, view.to(self.device))
        return Batch(
            x=x,
            y=y,
            soft_labels=None
            if know.soft_labels is None
            else know.soft_labels[labelled],
            delta=None if self.memory is None else self.memory.recall(at, eps, index),
            boundary=None if know.boundary is None else know.boundary.batch(plain, at),
            place=index,
        )

    def watch(self) -> tuple[float, float, bool]:
        """Measure clean and PGD accuracy and collapse; keep the best weights."""
        began, state = self.clock(), self.state
        weights = self.learner.weights()
        student = self.learner.student(weights)
        x, y = self.val.batch(torch.arange(len(self.val.y)))
        answers = predict(student, x)
        x_adv = pgd(
            student,
            x.to(self.device),
            y.to(self.device),
            eps=self.eps,
            step_size=self.eps / 2,
            steps=_MONITOR_STEPS,
            random_start=True,
            generator=torch.Generator(self.device).manual_seed(self.seed),
        )
        clean = float((answers == y).double().mean())
        robust = float(
            ((predict(student, x_adv) == y) & (answers == y)).double().mean()
        )
        if robust >= state.best_robust:
            self.best, state.best_robust, state.best_epoch = (
                weights,
                robust,
                state.epoch,
            )
        state.last_robust = robust
        state.evaluate_s += self.clock() - began
        return clean, robust, is_collapsed(answers, self.num_classes, labels=y)

    def guard(self, attacked: Attacked) -> None:
        """Go on with twice the steps, of half the size, if the attack is deceived.

        At two milestones in a row: weights of a high learning rate deceive one step
        now and then, and get over it by themselves.
        """
        began, state = self.clock(), self.state
        if 2 * self.recipe.attack.steps * 2**state.doublings <= MOST_STEPS:
            generator = torch.Generator(self.device).manual_seed(self.seed)
            self.learner.hold()
            parted = has_parted(self.learner.model, attacked, generator=generator)
            state.doublings += parted and state.has_parted
            state.has_parted = parted and not state.has_parted
            self.learner.release()
        state.evaluate_s += self.clock() - began

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint must hold beside the state."""
        tensors = {
            **{f"learner.{k}": v for k, v in self.learner.tensors().items()},
            **{f"best.{k}": v for k, v in self.best.items()},
            "generator": self.generator.get_state(),
        }
        if self.noise is not self.generator:
            tensors["noise"] = self.noise.get_state()
        if self.memory is not None:
            tensors["deltas"] = self.memory.tensor()
        if self.temperatures is not None:
            tensors["class_temperatures"] = self.temperatures.tensor()
        return tensors

    def resume(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned; the state is in place already."""
        self.learner.load(under("learner.", tensors))
        self.best = under("best.", tensors)
        self.generator.set_state(tensors["generator"])
        if self.noise is not self.generator:
            self.noise.set_state(tensors["noise"])
        if self.memory is not None:
            self.memory.load(tensors["deltas"])
        if self.temperatures is not None:
            self.temperatures.load(tensors["class_temperatures"])
