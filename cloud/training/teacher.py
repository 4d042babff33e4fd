"""Stage 1's training loop: a teacher, trained adversarially, epoch by epoch.

`fit_teacher` is the loop: plain PyTorch, alone or as one rank of several, on CPU or
GPU. Every epoch depends on the state before it and on (seed, epoch, rank) alone, so
that it can be repeated after a kill. Not here: Ray (`worker`, `job`), objectives
(`objectives`), the exchange between ranks (`ranks`), which weights are kept
(`kept_weights`).
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cloud.training.checkpoint import TrainingState
from cloud.training.images import augmented
from cloud.training.kept_weights import BestEpoch, average_weights
from cloud.training.objectives import (
    OBJECTIVES,
    frozen,
    perturbed_weights,
    still_statistics,
)
from cloud.training.ranks import Ranks
from cloud.training.validation import (
    VALIDATION_IMAGES,
    count_correct,
    ranking_attack,
)
from common.config import RunConfig
from common.data.datasets import Dataset
from common.errors import StorageError, one_line
from common.models.contract import check_contract
from common.models.forward import Model, channels_last, mixed, seeded
from common.models.zoo import build_model
from common.optim import SGD, schedule


@dataclass(frozen=True)
class EpochReport:
    """One epoch, as it is written to progress.jsonl, shown and compared."""

    epoch: int  # 1 for the first
    epochs: int
    loss: float
    clean_accuracy: float  # on the validation images
    robust_accuracy: float  # PGD at full eps: `ranking_attack`
    num_val: int  # validation images, of all ranks
    cpu_s: float  # of this rank, since the first epoch
    num_workers: int  # that trained this epoch together


class TeacherRun:
    """The state of one training and the step from epoch to epoch.

    Attributes:
        epoch: epochs done.
        model: the weights that are trained.
        averaged: their moving average; None without `teacher.ema_decay`.
        best: the best epoch so far.
        forward: the model as the training calls it: compiled where that is asked for,
            in mixed precision on a GPU.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        *,
        device: torch.device | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Build the model from the seed, and lay out the data on the device."""
        self.config = config.teacher
        self.eps = config.threat.eps
        self.seed = config.seed
        self.ranks = ranks or Ranks()
        self.device = device or torch.device("cpu")
        built_for = {
            "in_channels": dataset.sample_shape[0],
            "image_size": dataset.sample_shape[1],
            "num_classes": dataset.num_classes,
        }
        check_contract(self.config.model, **built_for)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = build_model(self.config.model, **built_for)
        self.model = channels_last(model.to(self.device), self.config.model)
        self.averaged = copy.deepcopy(self.model) if self.config.ema_decay else None
        self.epoch, self.cpu_s = 0, 0.0
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = SGD(
            self._parameters,
            learning_rate=self.config.learning_rate,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )
        self._images = torch.from_numpy(dataset.train.images).to(self.device)
        self._labels = torch.from_numpy(dataset.train.labels).to(self.device)
        x, y = dataset.val.tensors()
        num_images = min(len(y), VALIDATION_IMAGES)
        self.best = BestEpoch(self.model, num_images=num_images)
        keep = slice(self.ranks.rank, VALIDATION_IMAGES, self.ranks.world_size)
        self._validation = x[keep].to(self.device), y[keep].to(self.device)
        net: Model = self.model
        if self.config.compile and self.device.type == "cuda":
            net = torch.compile(net)
        self.forward = mixed(net, self.device)

    @property
    def finished(self) -> bool:
        """Say whether all epochs are done."""
        return self.epoch >= self.config.epochs

    def run_epoch(self) -> EpochReport:
        """Train one epoch and validate; every rank must call it."""
        began = time.process_time()
        shared, own = self._generators()
        size = min(self.config.batch_size, len(self._labels))
        order = torch.randperm(len(self._labels), generator=shared)
        # An incomplete last batch is dropped: its images are used in other epochs.
        batches = torch.split(order[: len(order) // size * size], size)
        total = torch.zeros(2, device=self.device)
        with seeded(self.seed, self.epoch, self.ranks.rank, device=self.device):
            for i, batch in enumerate(batches):
                done = self.epoch + i / len(batches)
                chosen = self.ranks.share(batch).to(self.device)
                loss = self.step(chosen, done, own)
                total += torch.stack([loss * len(chosen), loss.new_tensor(len(chosen))])
        self.epoch += 1
        summed = self.ranks.total(torch.cat([total, self._validate()])).tolist()
        loss_sum, num_samples, clean, robust, seen = summed
        clean, robust = clean / max(seen, 1), robust / max(seen, 1)
        self.best.update(self.epoch, self._served(), robust)
        self.cpu_s += time.process_time() - began
        return EpochReport(
            epoch=self.epoch,
            epochs=self.config.epochs,
            loss=loss_sum / num_samples,
            clean_accuracy=clean,
            robust_accuracy=robust,
            num_val=round(seen),
            cpu_s=round(self.cpu_s, 3),
            num_workers=self.ranks.world_size,
        )

    def best_model(self) -> nn.Module:
        """Return a copy of the best epoch's model, in eval mode on the CPU."""
        best: nn.Module = copy.deepcopy(self.best.model)
        return best.cpu().eval()

    def state(self) -> TrainingState:
        """Gather everything that the next epoch depends on."""
        models = {"model": self.model, "best": self.best.model}
        if self.averaged is not None:
            models["ema"] = self.averaged
        tensors = {
            f"{part}.{name}": value
            for part, model in models.items()
            for name, value in model.state_dict().items()
        }
        momenta = self.optimizer.state_dict()
        tensors |= {f"optimizer.{name}": value for name, value in momenta.items()}
        return TrainingState(
            self.epoch, self.best.epoch, self.best.score, self.cpu_s, tensors
        )

    def restore(self, state: TrainingState) -> None:
        """Continue from what `state` gathered for the same config.

        Raises:
            StorageError: it is the state of another teacher.
        """
        try:
            self.model.load_state_dict(state.part("model"))
            self.best.model.load_state_dict(state.part("best"))
            if self.averaged is not None:
                self.averaged.load_state_dict(state.part("ema"))
            self.optimizer.load_state_dict(state.part("optimizer"))
        except (KeyError, RuntimeError) as e:
            reason = one_line(e, 160)
            raise StorageError(
                f"the checkpoint is of another teacher: {reason}; remove the "
                "checkpoints folder to start again"
            ) from e
        self.best.epoch, self.best.score = state.best_epoch, state.best_score
        self.epoch, self.cpu_s = state.epoch, state.cpu_s

    def step(self, chosen: Tensor, done: float, own: torch.Generator) -> Tensor:
        """Update the weights once, on some of the training images.

        Args:
            chosen: their indices (N,), on the device.
            done: epochs done, fraction included.
            own: of this rank's random choices, on the device.

        Returns:
            The loss before the update.
        """
        config, objective = self.config, OBJECTIVES[self.config.objective]
        x = self._images[chosen].float().div_(255)
        y = self._labels[chosen]
        x = augmented(x, shift=config.shift, flip=config.flip, generator=own)
        warmup = min(config.eps_warmup_epochs, config.epochs // 2)
        eps = self.eps * min(1.0, (done + 1) / (warmup + 1))
        # Unfinished examples must not enter BatchNorm's statistics, nor dropout blur
        # their gradients.
        self.model.eval()
        with frozen(self._parameters):
            x_adv = objective.craft(
                self.forward, x, y, eps=eps, attack=config.attack, generator=own
            )
        self.model.train()

        def loss() -> Tensor:
            return objective.loss(self.forward, x, x_adv, y, config)

        def uphill_loss() -> Tensor:
            with still_statistics(self.model):
                return loss()

        def average(gradients: Sequence[Tensor]) -> list[Tensor]:
            return self.ranks.average(gradients, len(chosen))

        gamma = config.awp_gamma
        with perturbed_weights(self._parameters, uphill_loss, gamma, average):
            value = loss()
            gradients = torch.autograd.grad(
                value, self._parameters, materialize_grads=True
            )
        factor = schedule(config.schedule)(done / config.epochs)
        self.optimizer.learning_rate = config.learning_rate * factor
        self.optimizer.step(average(gradients))
        if self.averaged is not None:
            average_weights(self.averaged, self.model, decay=config.ema_decay)
        return value.detach()

    def _served(self) -> nn.Module:
        served: nn.Module = self.averaged or self.model
        return served

    def _validate(self) -> Tensor:
        """Count clean, PGD-correct and all of this rank's validation images: (3,)."""
        model = self._served().eval()
        # BatchNorm statistics are each rank's own until here. Both models', because
        # the next epoch's attack sees them, and a resumed one rank 0's.
        both = [model for model in (self.model, self.averaged) if model is not None]
        buffers = [b for each in both for b in each.buffers()]
        self.ranks.agree(b for b in buffers if b.is_floating_point())
        return count_correct(
            model,
            *self._validation,
            eps=self.eps,
            attack=ranking_attack(self.config.attack, self.eps),
            generator=torch.Generator(self.device).manual_seed(self.seed),
        )

    def _generators(self) -> tuple[torch.Generator, torch.Generator]:
        """Seed this epoch: one generator alike on all ranks, one of this rank."""
        base = (self.seed * 1_000_003 + self.epoch) * 4096
        shared = torch.Generator().manual_seed(base % 2**63)
        own = torch.Generator(self.device)
        return shared, own.manual_seed((base + 1 + self.ranks.rank) % 2**63)


def fit_teacher(
    config: RunConfig,
    dataset: Dataset,
    *,
    device: torch.device | None = None,
    ranks: Ranks | None = None,
    resume_from: TrainingState | None = None,
    after_epoch: Callable[[TeacherRun, EpochReport], None] | None = None,
) -> TeacherRun:
    """Train a teacher to its last epoch; every rank must call it.

    Args:
        config: of the run; [teacher], [threat] and seed are used.
        dataset: train and validation images.
        device: where to train; the CPU by default.
        ranks: this process among several whose torch.distributed group is up.
        resume_from: an earlier `TeacherRun.state`; None: start from the first epoch.
        after_epoch: called after every epoch, for checkpoints and progress.

    Returns:
        The finished run; its `best_model` is the teacher.

    Raises:
        StorageError: `resume_from` is the state of another teacher.
    """
    run = TeacherRun(config, dataset, device=device, ranks=ranks)
    if resume_from is not None:
        run.restore(resume_from)
    while not run.finished:
        report = run.run_epoch()
        if after_epoch is not None:
            after_epoch(run, report)
    return run
