"""The rivals: the paper's loop, the classic PyTorch MNIST example and train_mnist_fast, each with its own network and
settings.

The first two read torchvision's MNIST item by item through a DataLoader, as their sources do.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler
from torchvision import datasets, transforms

from mnist_kit import Digits, Net, paper
from mnist_kit.data import Split


class Pictures(datasets.MNIST):
    """torchvision's MNIST, item for item, over images that are in memory already."""

    def __init__(self, split: Split, transform):
        self.data, self.targets = split.images[:, 0], split.labels
        self.transform, self.target_transform = transform, None


def shuffled(pictures: Pictures, batch_size: int, seed: int, drop_last: bool, workers: int = 0) -> DataLoader:
    """Batches in the order `fit` takes them with this seed: that makes their first losses comparable."""
    order = RandomSampler(pictures, generator=torch.Generator().manual_seed(seed))
    # A generator of its own, else the loader draws from the one that makes the dropout masks.
    own = torch.Generator()
    return DataLoader(
        pictures,
        batch_size,
        sampler=order,
        drop_last=drop_last,
        num_workers=workers,
        generator=own,
        persistent_workers=workers > 0,
    )


class PaperLoop:
    """The paper's training (listings 2.2 to 2.4): `Net`, Adam, StepLR, one `.item()` a step, evaluation with gradients.

    The paper does not seed; `seed` makes runs comparable.
    """

    batch_size = paper.BATCH_SIZE
    epochs = 25

    def __init__(self, digits: Digits, device: torch.device, seed: int = 0):
        torch.manual_seed(seed)
        self.device = device
        self.model = Net().to(device)
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.003)
        self.schedule = optim.lr_scheduler.StepLR(self.optimizer, step_size=7, gamma=0.1)
        self.train = shuffled(Pictures(digits.train, transforms.ToTensor()), self.batch_size, seed, drop_last=True)
        self.test = DataLoader(Pictures(digits.test, transforms.ToTensor()), self.batch_size)
        torch.manual_seed(seed)

    def epoch(self) -> Iterator[float]:
        """The loss of each step."""
        self.model.train()
        for images, labels in self.train:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            yield loss.item()
        self.schedule.step()

    def evaluate(self) -> float:
        """The fraction of the test images recognised: exact, where the paper averages over batches."""
        self.model.eval()
        correct = 0
        for images, labels in self.test:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.model(images)
            functional.cross_entropy(logits, labels).detach()  # the paper keeps the loss of each batch as well
            correct += (logits.argmax(1) == labels).sum().item()
        return correct / len(self.test.dataset)


class ClassicNet(nn.Module):
    """The network of PyTorch's MNIST example: 1,199,882 parameters, log-probabilities out."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
        )
        self.classifier = nn.Sequential(
            nn.Linear(64 * 12 * 12, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """log-probabilities, float32 (batch, 10), of normalised images, float32 (batch, 1, 28, 28)."""
        return self.classifier(self.features(images).flatten(1)).log_softmax(1)


class ClassicExample:
    """PyTorch's MNIST example with its default settings; a GPU gets one loading worker and pinned memory, as there.

    It is shuffled on every device, which favours it: the example itself shuffles on accelerators only.
    """

    batch_size = 64
    epochs = 14

    def __init__(self, digits: Digits, device: torch.device, seed: int = 0):
        torch.manual_seed(seed)
        self.device = device
        self.model = ClassicNet().to(device)
        self.optimizer = optim.Adadelta(self.model.parameters(), lr=1.0)
        self.schedule = optim.lr_scheduler.StepLR(self.optimizer, step_size=1, gamma=0.7)
        normalised = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
        on_gpu = {"num_workers": 1, "pin_memory": True} if device.type == "cuda" else {}
        self.train = DataLoader(Pictures(digits.train, normalised), self.batch_size, shuffle=True, **on_gpu)
        self.test = DataLoader(Pictures(digits.test, normalised), 1000, **on_gpu)

    def epoch(self) -> Iterator[None]:
        """One item a step; the example reads its loss every tenth."""
        self.model.train()
        for step, (images, labels) in enumerate(self.train):
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            loss = functional.nll_loss(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            if step % 10 == 0:
                loss.item()
            yield
        self.schedule.step()

    @torch.no_grad()
    def evaluate(self) -> float:
        """The fraction of the test images recognised."""
        self.model.eval()
        correct = 0
        for images, labels in self.test:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.model(images)
            functional.nll_loss(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
        return correct / len(self.test.dataset)


class FastScriptNet(nn.Module):
    """The network of train_mnist_fast: 215,194 parameters, logits out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 24, kernel_size=5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(24, 32, kernel_size=3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 5 * 5, 256), nn.ReLU(), nn.Linear(256, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (batch, 10), of normalised images, float32 (batch, 1, 28, 28)."""
        return self.layers(images)


class FastScript:
    """github.com/tuomaso/train_mnist_fast, step 8: one epoch under one cycle on tensors that are prepared beforehand.

    Its author has 99.04 % for it (mean of 30 runs), in 0.76 s on a graphics card of 2019. The images come in one random
    order, normalised, in memory; none of that counts there, nor here.
    """

    batch_size = 256
    epochs = 1

    def __init__(self, digits: Digits, device: torch.device, seed: int = 0):
        torch.manual_seed(seed)
        self.model = FastScriptNet().to(device)
        order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(seed))
        self.train = self._batches(digits.train.images[order], digits.train.labels[order], self.batch_size, device)
        self.test = self._batches(digits.test.images, digits.test.labels, 2000, device)
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.01, betas=(0.7, 0.9))
        steps = self.epochs * len(self.train)
        self.schedule = optim.lr_scheduler.OneCycleLR(self.optimizer, 0.01, total_steps=steps, cycle_momentum=False)

    @staticmethod
    def _batches(images: Tensor, labels: Tensor, size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        images = ((images / 255 - 0.1307) / 0.3081).to(device)
        return list(zip(images.split(size), labels.to(device).split(size), strict=True))

    def epoch(self) -> Iterator[None]:
        """One item a step."""
        self.model.train()
        for images, labels in self.train:
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(images), labels).backward()
            self.optimizer.step()
            if self.schedule.last_epoch < self.schedule.total_steps:  # the benchmark of steps goes on for longer
                self.schedule.step()
            yield

    @torch.no_grad()
    def evaluate(self) -> float:
        """The fraction of the test images recognised."""
        self.model.eval()
        correct = count = 0
        for images, labels in self.test:
            logits = self.model(images)
            functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
            count += len(labels)
        return correct / count
