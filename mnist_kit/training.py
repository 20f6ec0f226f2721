"""The one training loop of the project. It can be stopped at any moment and go on as if it had not been."""

import math
import platform
import signal
import threading
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import pandas as pd
import torch
from torch import Tensor, nn

from mnist_kit.checkpoints import Checkpoints
from mnist_kit.data import Digits, Split
from mnist_kit.engine import (
    GradientStep,
    StepClock,
    as_device,
    as_input,
    best_device,
    current,
    device_name,
    dropping,
    flushing_denormals,
    multiplies_bfloat16,
    pooling_first,
)
from mnist_kit.errors import CheckpointError, LossNotFinite, RecipeError, StorageError, TrainingError
from mnist_kit.evaluation import Evaluation, evaluate
from mnist_kit.history import History
from mnist_kit.parallel import World, contact, spread, whole_batches, world
from mnist_kit.recipes import Recipe

__all__ = ["Callback", "Evaluation", "Run", "as_device", "as_input", "best_device", "evaluate", "fit", "pooling_first"]

CHECKPOINT_SHARE = 0.01  # of the time of a run, that writing its checkpoints may take
CHECK_STEPS = 100  # on a GPU, between two looks at the losses: each look waits for the device


class Callback:
    """Follows a training run; override what you need. Each method gets the `Run`."""

    def on_start(self, run: "Run") -> None:
        """Before the first step."""

    def on_step(self, run: "Run") -> None:
        """After each step, thousands of times: do not wait for the device (no `.item()`, seldom `run.history()`)."""

    def on_epoch(self, run: "Run") -> None:
        """After each epoch and its evaluation."""

    def on_end(self, run: "Run") -> None:
        """When training is over, also after an interruption or an error."""


@dataclass
class Run:
    """A training run as callbacks see it.

    step: steps done so far; epoch: the one that is running, from 1; losses: float32 (total_steps,), NaN where there was
    no step yet, on the device until `history()` reads them; resumed_at: the step that a checkpoint gave, else 0; ranks:
    processes that train together; graph_seconds: what recording a CUDA graph took, 0 without one.
    """

    recipe: Recipe
    digits_name: str
    device: torch.device
    steps_per_epoch: int
    step: int = 0
    epoch: int = 1
    resumed_at: int = 0
    ranks: int = 1
    graph_seconds: float = 0.0
    interrupted: bool = False
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self):
        self.losses = torch.full((self.total_steps,), math.nan, device=self.device)
        self._epochs: list[dict] = []
        self._paper_accuracies: list[float] = []
        self._clock = StepClock(self.device)
        self._epoch_started = self.started
        self._epoch_learning_rate = math.nan

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def bfloat16(self) -> bool:
        """Whether products are computed in bfloat16, else in float32."""
        return self.device.type == "cuda" or (self.recipe.bfloat16 and multiplies_bfloat16(self.device))

    @property
    def seconds(self) -> float:
        """Seconds of training so far, evaluation included, and without the time between a stop and going on."""
        return time.perf_counter() - self.started

    def history(self) -> History:
        """Everything so far. It waits for the device: ask at most once a second."""
        steps = pd.DataFrame(
            {
                "step": range(1, self.step + 1),
                "epoch": [1 + step // self.steps_per_epoch for step in range(self.step)],
                "seconds": self._clock.laps()[: self.step],
                "loss": self.losses[: self.step].tolist(),
            }
        )
        columns = ["epoch", "loss", "val_loss", "val_accuracy", "seconds", "eval_seconds", "learning_rate"]
        about = {
            "recipe": self.recipe.as_dict(),
            "data": self.digits_name,
            "device": device_name(self.device),
            "products": "bfloat16" if self.bfloat16 else "float32",
            "ranks": self.ranks,
            "graph_seconds": self.graph_seconds,
            "system": platform.platform(),
            "torch": torch.__version__,
            "interrupted": self.interrupted,
            "paper_accuracy": list(self._paper_accuracies),
        }
        return History(steps, pd.DataFrame(self._epochs, columns=columns), about)


def fit(
    model: nn.Module,
    digits: Digits,
    recipe: Recipe,
    callbacks: Iterable[Callback] = (),
    device: torch.device | str | None = None,
    checkpoint: str | None = None,
    every: int | None = None,
    resume: bool = False,
) -> History:
    """Train `model` in place on `digits.train` by `recipe`, evaluate on `digits.test` after each epoch.

    model: any module from float32 images (batch, 1, 28, 28) in [0, 1] to logits (batch, 10). It is moved to `device`
    and returned to evaluation mode. The images are kept on the device as uint8. Seeds torch with `recipe.seed`: the
    same seed and the same initial weights give the same history on the same CPU; a GPU may differ in the last digits.
    Products are computed in bfloat16 on a CUDA GPU, and where the recipe says so on processors made for it.

    checkpoint: keep the last two states of the run under this name, in `checkpoints/` of the home folder; every: so
    many steps, None: as often as it costs no more than 1 % of the time, and at the end. When a state cannot be written
    a warning says so once, and training goes on.
    resume: go on from there. On the CPU the run then is, bit for bit, the one that was not stopped; with no state yet
    it starts with the first step. A finished run returns its history at once. Without `resume` what was kept under the
    name is moved to `<name>.before`, or deleted where the run that lies there already got further.

    Interrupting it (Ctrl+C, the notebook's stop button) ends training after the running step: the history so far is
    returned, the model holds the last step's weights, and the checkpoint is written. A second time ends it at once.

    Under `torchrun` all processes train one model: each takes an equal part of every batch, with the same result but
    for rounding (`mnist_kit.parallel`). Callbacks, checkpoints and progress are the first one's.

    Raises RecipeError when no full batch fits the data or the processes do not divide the batch; TrainingError for an
    empty test split, a missing device, an `every` that makes no sense, or fewer GPUs than processes; ContactLost, which
    is one, when another process does not answer; CheckpointError for a checkpoint of another model, recipe or data
    set, a damaged or newer one; StorageError when the first state cannot be written; LossNotFinite when the loss
    becomes NaN or infinite: the model then has its last good weights again.
    """
    processes = world()
    device = processes.own(as_device(device))
    if len(digits.test) == 0:
        raise TrainingError(f"{digits.name} has no test images to evaluate on after each epoch")
    if recipe.batch_size % processes.size:
        raise RecipeError(
            f"batch_size {recipe.batch_size} cannot be shared equally by {processes.size} processes: "
            "start a number of them that divides it, or choose another batch_size"
        )
    if every is not None and (not isinstance(every, int) or every < 1):
        raise TrainingError(f"every must be a whole number of steps, at least 1, or None, not {every!r}")
    if resume and checkpoint is None:
        raise CheckpointError("resume=True needs the name of the checkpoint to go on from: checkpoint='…'")
    run = Run(recipe, digits.name, device, recipe.steps_per_epoch(len(digits.train)), ranks=processes.size)
    callbacks = list(callbacks) if processes.is_first else []

    with current(device), flushing_denormals():
        torch.manual_seed(recipe.seed)
        model.to(device, memory_format=torch.channels_last)
        training = _Training(model, digits, run, processes)
        if checkpoint is not None:
            training.keeper = keeper = _Keeper(Checkpoints(checkpoint), training, every)
            training.load(processes.from_first(keeper.latest if resume else keeper.begin))
        for callback in callbacks:
            callback.on_start(run)
        try:
            with contact(), training.interrupts:
                training.train(callbacks)
        finally:
            model.eval()
            for callback in callbacks:
                callback.on_end(run)
        return run.history()


class _Training:
    """Everything that changes while a model trains, and the loop that changes it."""

    def __init__(self, model: nn.Module, digits: Digits, run: Run, processes: World):
        self.model, self.run, self.processes = model, run, processes
        self.keeper: _Keeper | None = None
        self.interrupts = _Interrupts(hold=processes.size > 1)
        recipe = run.recipe
        self.images = digits.train.images[: recipe.train_images].to(run.device)
        self.labels = digits.train.labels[: recipe.train_images].to(run.device)
        self.test = Split(digits.test.images.to(run.device), digits.test.labels)
        self.learning_rates: list[float] = []  # of each step
        self.gradients: GradientStep | None = None
        self.on_cpu = run.device.type == "cpu"
        fused = run.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=fused)
        self.by_step = recipe.schedule == "one-cycle"  # else the schedule moves with each epoch
        if self.by_step:
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, recipe.learning_rate, run.total_steps)
        else:
            self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, recipe.step_epochs, recipe.gamma)
        self.remember_good()

    def train(self, callbacks: list[Callback]) -> None:
        run = self.run
        shuffle = torch.Generator().manual_seed(run.recipe.seed)  # on the CPU: the same order on every device
        orders = (torch.randperm(len(self.images), generator=shuffle) for _ in range(run.recipe.epochs))
        try:
            for epoch, order in islice(enumerate(orders, start=1), len(run._epochs), None):
                run.epoch = epoch
                for _ in self.steps(order.to(run.device)):
                    for callback in callbacks:
                        callback.on_step(run)
                    if self.keeper:
                        self.keeper.on_step()
                self.end_epoch()
                for callback in callbacks:
                    callback.on_epoch(run)
        except KeyboardInterrupt:
            run.interrupted = True
        if self.keeper and not self.interrupts.amid_step:
            with self.interrupts.held():
                self.keeper.save()

    def steps(self, order: Tensor) -> Iterator[None]:
        """The steps of an epoch through images in `order`, but for those that were done before it was resumed."""
        run, size = self.run, self.run.recipe.batch_size
        done = run.step - len(run._epochs) * run.steps_per_epoch
        if done == 0:
            run._epoch_started, run._epoch_learning_rate = time.perf_counter(), self.learning_rate
        self.model.train()
        dropout = dropping(self.model, run.recipe.dropout)
        with pooling_first(self.model), dropout, whole_batches(self.model, self.processes):
            for batch in order[: run.steps_per_epoch * size].split(size)[done:]:
                batch = self.processes.shard(batch)
                if self.gradients is None:
                    self.gradients = self.begin_gradients(batch)
                with self.interrupts.held():
                    self.step(batch)
                self.interrupts.look()
                yield

    def begin_gradients(self, batch: Tensor) -> GradientStep:
        if self.processes.size > 1:
            return GradientStep(spread(self.model, self.run.device), self.run.device, self.run.bfloat16)
        gradients = GradientStep(self.model, self.run.device, self.run.bfloat16)
        if self.run.device.type == "cuda":
            started = time.perf_counter()
            gradients.record(self.images[batch], self.labels[batch])
            self.run.graph_seconds = time.perf_counter() - started
        return gradients

    def step(self, batch: Tensor) -> None:
        """One step, on this process's part of a batch: indices of images, int64 (n,)."""
        run = self.run
        run._clock.begin()
        loss = self.gradients(self.images[batch], self.labels[batch])
        if self.processes.size > 1:
            # All have to stop after the same step, so whether one was told to is shared along with the loss.
            loss, stop = self.processes.mean(torch.stack([loss, torch.full_like(loss, self.interrupts.told)]))
        run.losses[run.step] = loss
        self.learning_rates.append(self.learning_rate)
        if self.on_cpu:
            self.check(run.step, run.step + 1)
        self.optimizer.step()
        run._clock.end()
        run.step += 1
        ends_epoch = run.step % run.steps_per_epoch == 0
        if self.by_step or ends_epoch:
            self.schedule.step()
        look = self.on_cpu or ends_epoch or run.step % CHECK_STEPS == 0
        if look and not self.on_cpu:
            self.check(max(0, run.step - CHECK_STEPS), run.step)
        if self.processes.size > 1 and look:
            self.interrupts.pending = bool(stop > 0)

    def end_epoch(self) -> None:
        run = self.run
        loss = run.losses[run.step - run.steps_per_epoch : run.step].mean().item()
        trained = time.perf_counter()
        evaluation = self.evaluate()
        now = time.perf_counter()
        with self.interrupts.held():
            run._paper_accuracies.append(evaluation.paper_accuracy)
            run._epochs.append(
                {
                    "epoch": run.epoch,
                    "loss": loss,
                    "val_loss": evaluation.loss,
                    "val_accuracy": evaluation.accuracy,
                    "seconds": now - run._epoch_started,
                    "eval_seconds": now - trained,
                    "learning_rate": run._epoch_learning_rate,
                }
            )
            self.remember_good()

    def evaluate(self) -> Evaluation:
        """On all processes together: each takes a part of the images, all get all of the logits."""
        test = self.test
        rank, size = self.processes.rank, self.processes.size
        if size == 1:
            return evaluate(self.model, test, self.run.device)
        part = Split(test.images[rank::size], test.labels[rank::size])
        logits = evaluate(self.model, part, self.run.device).logits if len(part) else torch.empty(0, 10)
        gathered = self.processes.gather(logits.to(self.run.device), len(test))
        return Evaluation(gathered.cpu(), test.labels.cpu())

    @property
    def learning_rate(self) -> float:
        return self.schedule.get_last_lr()[0]

    def remember_good(self) -> bool:
        """Keep the weights to fall back to; False where they are not finite."""
        weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        good = all(bool(tensor.isfinite().all()) for tensor in weights.values())
        if good:
            self.good = (self.run.step, weights)
        return good

    def check(self, first: int, last: int) -> None:
        """Stop when a loss of steps `first` to `last`, exclusive and from 0, is not finite."""
        run = self.run
        bad = (~run.losses[first:last].isfinite()).nonzero()
        if not len(bad):
            return
        step = first + int(bad[0]) + 1
        learning_rate = self.learning_rates[step - 1]
        good, weights = self.good
        self.model.load_state_dict(weights)
        where = f"the model has the weights of step {good:,} again"
        if self.keeper and self.keeper.saved:
            where += f"; the checkpoint {self.keeper.name!r} is of step {self.keeper.saved[0]:,}"
        raise LossNotFinite(
            f"the loss of step {step:,} is {run.losses[step - 1].item()} (epoch {run.epoch}, learning rate "
            f"{learning_rate:.3g}): {where}. A lower learning_rate is the usual mend; images or labels that are "
            "not what they should be are the other cause",
            step,
            learning_rate,
            run.history(),
        )

    # What a checkpoint holds

    def identity(self) -> dict:
        """What has to be the same for a run to go on."""
        recipe = self.run.recipe.as_dict()
        del recipe["promised_accuracy"]
        return {"model": type(self.model).__name__, "recipe": recipe, "data": [self.run.digits_name, self.checksum]}

    @cached_property
    def checksum(self) -> int:
        """Of all images and labels: a name alone does not tell one data set from another."""
        total = 0
        for tensor in (self.images, self.labels, self.test.images, self.test.labels):
            total = zlib.crc32(tensor.cpu().contiguous().numpy(), total)
        return total

    def state(self) -> tuple[dict[str, Tensor], dict]:
        run, optimizer = self.run, self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, averages in optimizer["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in averages.items()}
        tensors["losses"] = run.losses[: run.step]
        tensors["seconds"] = torch.tensor(run._clock.laps(), dtype=torch.float64)
        tensors["random.cpu"] = torch.get_rng_state()
        if run.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(run.device)
        now = time.perf_counter()
        return tensors, {
            **self.identity(),
            "step": run.step,
            "epochs": run._epochs,
            "paper_accuracies": run._paper_accuracies,
            "seconds": now - run.started,
            "epoch_seconds": now - run._epoch_started,
            "epoch_learning_rate": run._epoch_learning_rate,
            "schedule": self.schedule.state_dict(),
            "groups": optimizer["param_groups"],
        }

    def load(self, state: tuple[dict[str, Tensor], dict] | None) -> None:
        """Go on from `state`. Raises CheckpointError, and changes nothing, when it is of another run."""
        if state is None:
            return
        tensors, about = state
        self.require_same(tensors, about)
        run, parameters = self.run, list(self.model.parameters())
        averages = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "adam":
                index, _, rest = rest.partition(".")
                like = parameters[int(index)]
                # In the parameter's own memory layout, on which Adam's fused loop relies.
                fitted = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
                averages.setdefault(int(index), {})[rest] = fitted
        self.model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
        groups = [{**group, "betas": tuple(group["betas"])} for group in about["groups"]]
        self.optimizer.load_state_dict({"state": averages, "param_groups": groups})
        self.schedule.load_state_dict(about["schedule"])
        torch.set_rng_state(tensors["random.cpu"])
        if run.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], run.device)
        now = time.perf_counter()
        run.step = run.resumed_at = about["step"]
        run.losses[: run.step] = tensors["losses"].to(run.device)
        self.learning_rates = [math.nan] * run.step
        run._clock = StepClock(run.device, tensors["seconds"].tolist())
        run._epochs, run._paper_accuracies = about["epochs"], about["paper_accuracies"]
        run.epoch = min(len(run._epochs) + 1, run.recipe.epochs)
        run.started, run._epoch_started = now - about["seconds"], now - about["epoch_seconds"]
        run._epoch_learning_rate = about["epoch_learning_rate"]
        self.remember_good()

    def require_same(self, tensors: dict[str, Tensor], about: dict) -> None:
        name = self.keeper.name
        mend = "train with what it was begun with, choose another checkpoint name, or start anew without resume"
        for kind, mine in self.identity().items():
            theirs = about[kind]
            if theirs == mine:
                continue
            if kind == "recipe":
                differing = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
                what = ", ".join(f"{key} {theirs.get(key)!r}, not {mine.get(key)!r}" for key in differing)
            else:
                theirs, mine = (theirs[0], mine[0]) if kind == "data" else (theirs, mine)
                what = f"{theirs!r}, not {mine!r}" if theirs != mine else f"another version of {mine!r}"
            raise CheckpointError(f"the checkpoint {name!r} is of another {kind} ({what}): {mend}")
        shapes = {f"model.{key}": tensor.shape for key, tensor in self.model.state_dict().items()}
        theirs = {key: tensor.shape for key, tensor in tensors.items() if key.startswith("model.")}
        if shapes != theirs:
            key = next(key for key in [*shapes, *theirs] if shapes.get(key) != theirs.get(key))
            raise CheckpointError(f"the checkpoint {name!r} is of another model ({key[6:]!r} differs): {mend}")


class _Keeper:
    """When a run is written to its checkpoints, and what happens when it cannot be."""

    def __init__(self, checkpoints: Checkpoints, training: _Training, every: int | None):
        self.checkpoints, self.training, self.every = checkpoints, training, every
        self.name = checkpoints.name
        self.saved: tuple[int, int] | None = None  # steps and epochs of the last state
        self.due = time.perf_counter()
        self.complained = False

    def latest(self) -> tuple | None:
        state = self.checkpoints.latest()
        if state is None:
            return self.begin()
        self.saved = state[1]["step"], len(state[1]["epochs"])
        return state

    def begin(self) -> None:
        moved = self.checkpoints.set_aside()
        try:
            self.write()
        except StorageError:
            if moved:
                self.checkpoints.bring_back()
            raise

    def on_step(self) -> None:
        if time.perf_counter() >= self.due if self.every is None else self.training.run.step % self.every == 0:
            self.save()

    def save(self) -> None:
        """Write the state if it is new and in order; a failure is told once, and is no reason to stop."""
        training = self.training
        if not training.processes.is_first or self.saved == self.position:
            return
        try:
            if training.remember_good():
                self.write()
        except StorageError as error:
            if not self.complained:
                warnings.warn(f"training goes on without new checkpoints: {error}", stacklevel=2)
            self.complained = True

    def write(self) -> None:
        started = time.perf_counter()
        self.checkpoints.write(self.training.run.step, *self.training.state())
        self.saved = self.position
        now = time.perf_counter()
        self.due = now + (now - started) / CHECKPOINT_SHARE

    @property
    def position(self) -> tuple[int, int]:
        return self.training.run.step, len(self.training.run._epochs)


class _Interrupts:
    """Ctrl+C, put off to the end of a step, since a step done by half could not be gone on with.

    hold: put it off until all processes know of it. told: it was pressed; pending: the run may stop now.
    """

    def __init__(self, hold: bool):
        self.hold = hold
        self.told = self.pending = self.amid_step = False

    def __enter__(self) -> "_Interrupts":
        self.own = threading.current_thread() is threading.main_thread()  # no other is interrupted
        if self.own:
            self.before = signal.signal(signal.SIGINT, self.handle)
        return self

    def __exit__(self, *_exception) -> None:
        if self.own:
            signal.signal(signal.SIGINT, self.before)

    def handle(self, _number, _frame) -> None:
        if self.told or not (self.hold or self.amid_step):
            raise KeyboardInterrupt
        self.told = True

    @contextmanager
    def held(self) -> Iterator[None]:
        self.amid_step = True  # and stays so when the step is not finished
        yield
        self.amid_step = False

    def look(self) -> None:
        if self.told and not self.hold:
            self.pending = True
        if self.pending:
            raise KeyboardInterrupt
