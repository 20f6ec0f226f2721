"""The training loop. A run can be stopped at any moment, and resumes as if it had not been."""

import math
import platform
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel

from mnist_kit.augment import augment
from mnist_kit.checkpoints import Checkpoints
from mnist_kit.data import Digits
from mnist_kit.device import (
    StepClock,
    answering,
    as_device,
    as_input,
    as_logits,
    computing,
    describe,
    device_name,
    has_bfloat16,
    keeping_memory,
    parameter_dtype,
)
from mnist_kit.distributed import World, contact, join
from mnist_kit.errors import CheckpointError, LossNotFinite, ModelError, RecipeError, TrainingError
from mnist_kit.evaluation import Evaluation, evaluate
from mnist_kit.history import EPOCHS, History
from mnist_kit.models import name_of, require_trainable, unwrapped
from mnist_kit.recipes import Recipe, get_recipe
from mnist_kit.signals import stopping_on_signals

MOST_STEPS = 100_000_000  # of a run: what it keeps of each has to fit into memory
STATISTICS = 5_000  # images, at most, that batch norm's statistics are taken from; more of them change nothing
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


def fit(
    model: nn.Module,
    digits: Digits,
    recipe: Recipe | str,
    callbacks: Iterable[Callback] | Callback = (),
    device: torch.device | str | None = None,
    checkpoint: str | None = None,
    every: int | None = None,
    resume: bool = False,
    processes: World | None = None,
) -> History:
    """Train `model` in place on `digits.train` by `recipe`, evaluate on `digits.test` after each epoch.

    model: any module from float images (batch, 1, 28, 28) in [0, 1], of its own dtype (float32 or float64), to logits
    (batch, classes). It is moved to `device` and left in evaluation mode, also after an error while it trains;
    otherwise it is as it was but for its weights.

    The same recipe and the same initial weights give the same history on the same CPU, whatever callbacks do: the run
    has random numbers of its own, which follow from `recipe.seed` and the step, and torch's global random state stays
    as it was. Other threads may evaluate, recognise, save, load and train; only where one draws from torch's global
    random state by itself (a new network does, for its weights) may dropout come out otherwise, since PyTorch's dropout
    draws from it too. A GPU may differ in the last digits.

    checkpoint: keep the last two states of the run under this name, in `checkpoints/` of the home folder; every: so
    many steps, None: as often as it costs no more than 1 % of the time, and at the end. When a state cannot be written
    a warning says so once, and training continues.
    resume: start from the last state. On the CPU the run then is, bit for bit, the one that was not stopped; with no
    state yet it starts with the first step. A finished run returns its history at once. Without `resume` an earlier run
    of the name is moved to `checkpoints/<name>/before/`, or dropped where the run that lies there got further.

    Ctrl+C (the notebook's stop button) ends training after the running step: the history so far is returned, the model
    holds the last step's weights, and the checkpoint is written. A second time ends it at once. SIGTERM and SIGHUP end
    it likewise and then do what they otherwise do.

    Under `torchrun` all processes train one model: each takes an equal part of every batch (`mnist_kit.distributed`).
    Batch norm and dropout work on that part alone, so that the result is not quite that of one process. Callbacks,
    checkpoints and progress are the first one's. processes: `World()` makes each train by itself.

    Raises ModelError for what is no such module, or answers without a gradient; RecipeError when no full batch fits the
    data, the processes do not divide the batch, or there are over 100 million steps; TrainingError for what are no
    Digits, an empty test split, a missing device, callbacks that are none, an `every` that makes no sense, or fewer
    GPUs than processes; ContactLost, which is one, when another process does not answer; CheckpointError for a
    checkpoint of another model, recipe or data set, a damaged or newer one, or a name that another run uses now: the
    model then has its own weights; StorageError when the first state cannot be written; LossNotFinite when the loss
    becomes NaN or infinite: the model then has its last good weights again.
    """
    processes = join() if processes is None else processes
    recipe = recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
    callbacks = _as_callbacks(callbacks) if processes.is_first else []
    if resume and checkpoint is None:
        raise CheckpointError("resume=True needs the name of the checkpoint to resume from: checkpoint='…'")
    checkpoints = None if checkpoint is None else Checkpoints(checkpoint, every)

    # A reader's grad mode, signal handlers and the model's dropout are as before afterwards.
    with torch.inference_mode(False), torch.enable_grad(), contact(), keeping_memory(), ExitStack() as at_end:
        run = Run(model, digits, recipe, processes.own(as_device(device)), processes)
        at_end.enter_context(stopping_on_signals(run))
        _set_dropout(model, recipe.dropout, at_end)
        if checkpoints:
            at_end.callback(checkpoints.lock.release)
            run.resume(processes.from_first(lambda: checkpoints.begin(run, resume)), checkpoint)
        checkpoints = checkpoints if processes.is_first else None
        network = processes.spread(model, run.device)
        try:
            for callback in callbacks:
                callback.on_start(run)
                at_end.callback(callback.on_end, run)  # each is called, even where another raises
            for epoch in range(len(run.epochs) + 1, recipe.epochs + 1):
                run.epoch = epoch
                for batch in run.batches():  # int64 (batch_size,)
                    with run.one_step() as generator:
                        inputs, labels = as_input(run.images[batch]), run.labels[batch]  # float32 (batch, 1, 28, 28)
                        if recipe.augmentation is not None:
                            inputs = augment(inputs, recipe.augmentation, generator)
                        run.optimizer.zero_grad()
                        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
                            logits = network(inputs.to(run.dtype))  # (batch, classes)
                        logits = as_logits(logits, len(batch), run.classes)
                        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
                        if not loss.requires_grad:
                            raise ModelError(
                                "the logits have no gradient: is there a detach() or no_grad() in the model?"
                            )
                        loss.backward()
                        run.optimizer.step()
                        run.record(functional.cross_entropy(logits.detach(), labels))
                    for callback in callbacks:
                        callback.on_step(run)
                    if checkpoints and checkpoints.is_due(run.step) and run.keep_weights():
                        checkpoints.save(run)
                    if run.should_stop():
                        raise KeyboardInterrupt
                begun = time.perf_counter()
                processes.share_buffers(model)
                run.take_clean_statistics()
                evaluation = processes.from_first(lambda: evaluate(run.averaged_model, digits.test, run.device))
                run.record_epoch(evaluation, time.perf_counter() - begun)
                for callback in callbacks:
                    callback.on_epoch(run)
        except KeyboardInterrupt:
            run.interrupted = True
        finally:
            model.eval()
        if checkpoints and not run.amid_step and run.keep_weights():
            checkpoints.save(run)
        if run.interrupted and not run.amid_step:
            with suppress(KeyboardInterrupt):  # asked to stop once more
                run.take_clean_statistics()
        if run.averaged_model is not model:
            unwrapped(model).load_state_dict(run.averaged_model.state_dict())
    return run.history()


class Run:
    """A training run: all that changes while a model trains. Callbacks read it.

    recipe, digits, device, steps_per_epoch, total_steps: what it runs with; precision: "float32" or "bfloat16", what
    products are computed in; step: steps done so far; epoch: the one that is running, from 1; losses: float32
    (total_steps,), as `History` has them, NaN where there was no step yet, on the device until `history()` reads them;
    epochs: a dict per finished epoch; interrupted: whether it was stopped; model, optimizer, scheduler: PyTorch's;
    averaged_model: what is evaluated, the model or the average of its weights where the recipe asks for one.
    """

    def __init__(self, model: nn.Module, digits: Digits, recipe: Recipe, device: torch.device, processes: World):
        if not isinstance(digits, Digits):
            raise TrainingError(f"fit takes Digits, such as load_digits(), not {describe(digits)}")
        if len(digits.test) == 0:
            raise TrainingError(f"{digits.name} has no test images to evaluate on after each epoch")
        self.steps_per_epoch = recipe.steps_per_epoch(len(digits.train), processes.size)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        if self.total_steps > MOST_STEPS:
            raise RecipeError(
                f"{self.total_steps:,} steps are more than {MOST_STEPS:,}: lower epochs={recipe.epochs:,}"
            )
        require_trainable(model)
        self.model, self.recipe, self.digits, self.device, self.processes = model, recipe, digits, device, processes
        bfloat16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and has_bfloat16(device))
        self.precision = "bfloat16" if bfloat16 else "float32"
        self.images = digits.train.images[: recipe.train_images].to(device)
        self.labels = digits.train.labels[: recipe.train_images].to(device)
        self.classes = 1 + int(max(self.labels.max(), digits.test.labels.max()))
        self.dtype = parameter_dtype(model)
        self.step, self.epoch, self.epochs = 0, 1, []
        self.interrupted, self.amid_step, self.told_to_stop = False, False, 0  # by which signal it was told
        self.started = self.epoch_started = time.perf_counter()
        self.epoch_learning_rate = recipe.learning_rate
        self.losses = torch.full((self.total_steps,), math.nan, dtype=torch.float32, device=device)
        self.clock = StepClock(device)

        self.gpus = [device] if device.type == "cuda" else []  # that have random numbers of their own
        with answering(model), torch.random.fork_rng(self.gpus):
            model.to(device)
            if any(map(nn.parameter.is_lazy, (*model.parameters(), *model.buffers()))):
                torch.manual_seed(recipe.seed)
                model(as_input(self.images[:2]).to(self.dtype))
        kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
        self.optimizer = kind(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        if recipe.schedule == "one-cycle":
            self.scheduler = OneCycleLR(self.optimizer, recipe.learning_rate, self.total_steps)
        else:
            self.scheduler = StepLR(self.optimizer, recipe.step_epochs * self.steps_per_epoch, recipe.gamma)
        # What has a state of its own, and is saved in checkpoints.
        self.parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "weights": unwrapped(model)}
        self.averaged_model = model
        if recipe.ema:
            average = AveragedModel(unwrapped(model), avg_fn=_moving_average(recipe.ema))
            self.parts["average"], self.averaged_model = average, average.module
        if not self.keep_weights():
            raise ModelError("the model has weights that are NaN or infinite: make it anew, or load weights into it")

    @property
    def seconds(self) -> float:
        """Seconds of training so far, evaluation included, without the time between a stop and the resumption."""
        return time.perf_counter() - self.started

    def batches(self) -> Iterator[Tensor]:
        """This process's part of each batch of the epoch that is still to come: indices of images."""
        size, done = self.recipe.batch_size, self.step - len(self.epochs) * self.steps_per_epoch
        if done == 0:
            self.epoch_started, self.epoch_learning_rate = time.perf_counter(), self.scheduler.get_last_lr()[0]
        shuffle = torch.Generator().manual_seed(seed_of(self.recipe.seed, self.epoch))  # the same on every device
        order = torch.randperm(len(self.images), generator=shuffle, device="cpu").to(self.device)
        for batch in order[: self.steps_per_epoch * size].split(size)[done:]:
            yield self.processes.shard(batch)

    @contextmanager
    def one_step(self) -> Iterator[torch.Generator]:
        """Within it torch draws the run's own random numbers, and no other thread uses the model; for augmentation."""
        seed = seed_of(self.recipe.seed, self.step, self.processes.rank)
        with computing, torch.random.fork_rng(self.gpus):
            torch.manual_seed(seed)
            self.amid_step = True  # and stays so when the step is not finished
            self.model.train()
            self.clock.mark()
            yield torch.Generator().manual_seed(seed)
            self.amid_step = False

    def record(self, loss: Tensor) -> None:
        """Count the step that made `loss`, and move on the schedule."""
        learning_rate = self.scheduler.get_last_lr()[0]
        self.losses[self.step] = self.processes.mean(loss)
        self.step += 1
        self.scheduler.step()
        if average := self.parts.get("average"):
            average.update_parameters(unwrapped(self.model))
        self.clock.mark()
        if self._is_looked_at():
            self._require_finite(learning_rate)

    def _is_looked_at(self) -> bool:
        """Whether to look at the losses after this step: on a GPU seldom, since each look waits for the device."""
        return self.device.type == "cpu" or self.step % self.steps_per_epoch == 0 or self.step % CHECK_STEPS == 0

    def take_clean_statistics(self) -> None:
        """Give batch norm the statistics of training images that are not augmented, where the recipe asks for it."""
        if not self.recipe.clean_statistics:
            return
        model, size = unwrapped(self.averaged_model), self.recipe.batch_size
        with computing:
            copy = deepcopy(model).eval()  # an interruption leaves the model as it is
        for layer in copy.modules():
            if isinstance(layer, _BatchNorm):
                layer.reset_running_stats()
                layer.train().momentum = None  # the mean over the batches
        shuffle = torch.Generator().manual_seed(self.recipe.seed)
        order = torch.randperm(len(self.images), generator=shuffle, device="cpu").to(self.device)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            for batch in order[: min(len(order), max(size, STATISTICS)) // size * size].split(size):
                copy(as_input(self.images[batch]).to(self.dtype))
        with computing:
            model.load_state_dict(copy.state_dict())

    def should_stop(self) -> bool:
        """Whether somebody has asked the run to stop. Several processes have to agree, and do so when they look."""
        if self.processes.size == 1:
            return self.told_to_stop > 0
        return self._is_looked_at() and bool(self.processes.mean(torch.tensor(float(self.told_to_stop))))

    def record_epoch(self, evaluation: Evaluation, eval_seconds: float) -> None:
        """Note what an epoch came to."""
        self.epochs.append(
            {
                "epoch": self.epoch,
                "loss": self.losses[self.step - self.steps_per_epoch : self.step].mean().item(),
                "val_loss": evaluation.loss,
                "val_accuracy": evaluation.accuracy,
                "batch_accuracy": evaluation.batch_accuracy,
                "seconds": time.perf_counter() - self.epoch_started,
                "eval_seconds": eval_seconds,
                "learning_rate": self.epoch_learning_rate,
            }
        )
        self.keep_weights()

    def history(self) -> History:
        """Everything so far. It waits for the device: ask at most once per second."""
        steps = pd.DataFrame({"step": np.arange(1, self.step + 1)})
        steps["epoch"] = 1 + (steps["step"] - 1) // self.steps_per_epoch
        steps["seconds"] = self.clock.seconds()[: self.step]
        steps["loss"] = self.losses[: self.step].tolist()
        about = {
            "recipe": self.recipe.as_dict(),
            "data": self.digits.name,
            "device": device_name(self.device),
            "precision": self.precision,
            "world_size": self.processes.size,
            "system": platform.platform(),
            "torch": torch.__version__,
            "interrupted": self.interrupted,
        }
        return History(steps, pd.DataFrame(self.epochs, columns=list(EPOCHS)).astype(EPOCHS), about)

    def keep_weights(self) -> bool:
        """Keep the weights to fall back to; False where they are not finite."""
        with computing, torch.no_grad():
            good = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
            if good:
                weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
                self.good = (self.step, weights)
        return good

    def _require_finite(self, learning_rate: float) -> None:
        bad = (~self.losses[: self.step].isfinite()).nonzero()
        if not len(bad):
            return
        step = int(bad[0]) + 1
        good, weights = self.good
        self.model.load_state_dict(weights)
        message = (
            f"the loss of step {step:,} is {self.losses[step - 1].item()} (epoch {self.epoch}, learning rate "
            f"{learning_rate:.3g}): the model has the weights of step {good:,} again. Usually a lower "
            "learning_rate fixes it; images or labels that are not what they should be are the other cause"
        )
        raise LossNotFinite(message, step, learning_rate, self.history())

    # Checkpoints

    @cached_property
    def identity(self) -> dict:
        """What has to be the same for a run to resume: the model's class and shapes, the recipe, the data."""
        checksum = 0  # of all images and labels: a name alone does not tell one data set from another
        for tensor in (self.images, self.labels, self.digits.test.images, self.digits.test.labels):
            checksum = zlib.crc32(tensor.cpu().contiguous().numpy(), checksum)
        shapes = {name: str(tuple(tensor.shape)) for name, tensor in unwrapped(self.model).state_dict().items()}
        return {
            "recipe": self.recipe.but(expected_accuracy=0.0).as_dict(),
            "data set": {"name": self.digits.name, "version": checksum},
            "model": {"class": name_of(self.model), **shapes},
        }

    def state_dict(self) -> dict:
        """All that a run needs to resume: tensors and plain values."""
        return {
            "identity": self.identity,
            "step": self.step,
            "epochs": self.epochs,
            "losses": self.losses[: self.step].clone(),
            "step_seconds": torch.tensor(self.clock.seconds(), dtype=torch.float64, device="cpu"),
            "seconds": self.seconds,
            "epoch_seconds": time.perf_counter() - self.epoch_started,
            "epoch_learning_rate": self.epoch_learning_rate,
            "averages": len(self.optimizer.state),  # of Adam: parameters that have had no gradient have none
            **{name: part.state_dict() for name, part in self.parts.items()},
        }

    def resume(self, state: dict | None, name: str) -> None:
        """Continue from `state`, if there is one. Raises CheckpointError when it is of another run, or incomplete."""
        if state is None:
            return
        try:
            self._require_same(state["identity"], name)
            step, epochs, losses, seconds = (state[key] for key in ("step", "epochs", "losses", "step_seconds"))
            into_epoch = step - len(epochs) * self.steps_per_epoch
            if not 0 <= into_epoch <= self.steps_per_epoch or not len(losses) == len(seconds) == step:
                raise ValueError(f"{len(losses)} losses and {len(epochs)} epochs for {step} steps")
            self._require_whole(state, step)
            now = time.perf_counter()
            self.started, self.epoch_started = now - state["seconds"], now - state["epoch_seconds"]
            self.epoch_learning_rate = state["epoch_learning_rate"]
            for part, own in self.parts.items():
                own.load_state_dict(state[part])
            self.losses[:step] = losses.to(self.device)
            self.clock = StepClock(self.device, seconds.tolist())
            self.step, self.epochs = step, list(epochs)
            self.epoch = min(len(epochs) + 1, self.recipe.epochs)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            self.model.load_state_dict(self.good[1])
            raise CheckpointError(
                f"the checkpoint {name!r} is not complete ({type(error).__name__}: {error}): choose another checkpoint "
                "name, or start anew without resume"
            ) from error
        self.keep_weights()

    def _require_whole(self, state: dict, step: int) -> None:
        """Raise ValueError for what PyTorch would load, and then fail or crash the process with."""
        averages, parameters = state["optimizer"]["state"], list(self.model.parameters())
        if len(averages) != state.get("averages", len(averages)) or (step and not averages):
            raise ValueError(f"the optimizer has averages of {len(averages)} parameters")
        for number, tensors in averages.items():
            shape, shapes = parameters[number].shape, {key: tensor.shape for key, tensor in tensors.items()}
            if shapes != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
                raise ValueError(f"the optimizer's averages of parameter {number} are {shapes}")
        # Other keys came with newer versions of PyTorch, which fill them in.
        group, schedule = {"params", "lr", "initial_lr", "betas", "eps", "weight_decay"}, {"last_epoch", "_step_count"}
        needed = [*((group, own) for own in state["optimizer"]["param_groups"]), (schedule, state["scheduler"])]
        for keys, found in needed:
            if keys - found.keys():
                raise ValueError(f"no {', '.join(sorted(keys - found.keys()))}")

    def _require_same(self, identity: dict, name: str) -> None:
        theirs = identity | {"recipe": Recipe.completed(identity["recipe"])}
        for kind, own in self.identity.items():
            other = theirs[kind]
            for key in own | other:
                if own.get(key) != other.get(key):
                    raise CheckpointError(
                        f"the checkpoint {name!r} is of another {kind} ({key} {other.get(key)!r}, not "
                        f"{own.get(key)!r}): choose another checkpoint name, or start anew without resume"
                    )


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such as a run's seed and a step: different ones for different numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def _as_callbacks(callbacks: Iterable[Callback] | Callback) -> list[Callback]:
    callbacks = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TrainingError(f"{callback!r} is no callback: derive a class from Callback and pass an object of it")
    return callbacks


def _set_dropout(model: nn.Module, share: float | None, at_end: ExitStack) -> None:
    """Let the `Dropout` layers of `model` switch off that share of their inputs until the end; None: as otherwise."""
    for layer in model.modules():
        if isinstance(layer, nn.Dropout) and share is not None:
            at_end.callback(setattr, layer, "p", layer.p)
            layer.p = share


def _moving_average(decay: float) -> Callable:
    """What `AveragedModel` averages by: with `decay`, and less of it in the first steps, whose weights mean nothing.

    With a constant decay of 0.999 a tenth of the initial weights would still be in the average after 2,300 steps. The
    warm-up is TensorFlow's, `ExponentialMovingAverage(num_updates=…)`.
    """

    return lambda average, weights, count: average.lerp(weights, 1 - min(decay, (1 + int(count)) / (10 + int(count))))
