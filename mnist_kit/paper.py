"""What the paper states, as data; nothing is computed here."""

from dataclasses import dataclass

TITLE = "A. M. Cherkashin, Handwritten digit recognition (2023)"

TRAIN_IMAGES = 60_000
TEST_IMAGES = 10_000
BATCH_SIZE = 128
EPOCHS = 25
STEPS_PER_EPOCH = 468
STEPS = 11_700
PARAMETERS = 905_354


@dataclass(frozen=True)
class Layer:
    """One row of the network's table: `output_shape` is that of a batch of 16 images."""

    layer: str
    output_shape: list[int]
    parameters: int


# Listing 2.1, in the columns of `models.Summary.layers`; the names of `TOTALS` are those of `models.Summary.totals`.
LAYERS = (
    Layer("Conv2d-1", [16, 32, 28, 28], 320),
    Layer("BatchNorm2d-2", [16, 32, 28, 28], 64),
    Layer("ReLU-3", [16, 32, 28, 28], 0),
    Layer("Conv2d-4", [16, 64, 28, 28], 18_496),
    Layer("BatchNorm2d-5", [16, 64, 28, 28], 128),
    Layer("ReLU-6", [16, 64, 28, 28], 0),
    Layer("MaxPool2d-7", [16, 64, 14, 14], 0),
    Layer("Conv2d-8", [16, 128, 14, 14], 73_856),
    Layer("BatchNorm2d-9", [16, 128, 14, 14], 256),
    Layer("ReLU-10", [16, 128, 14, 14], 0),
    Layer("MaxPool2d-11", [16, 128, 7, 7], 0),
    Layer("Dropout-12", [16, 6272], 0),
    Layer("Linear-13", [16, 128], 802_944),
    Layer("BatchNorm1d-14", [16, 128], 256),
    Layer("ReLU-15", [16, 128], 0),
    Layer("Dropout-16", [16, 128], 0),
    Layer("Linear-17", [16, 64], 8_256),
    Layer("BatchNorm1d-18", [16, 64], 128),
    Layer("ReLU-19", [16, 64], 0),
    Layer("Dropout-20", [16, 64], 0),
    Layer("Linear-21", [16, 10], 650),
)
TOTALS = {
    "parameters": PARAMETERS,
    "trainable": PARAMETERS,
    "not trainable": 0,
    "input (MB)": 0.05,
    "forward/backward (MB)": 39.91,
    "parameters (MB)": 3.45,
    "total (MB)": 43.41,
}

# How section 2.4 draws its figures (listing 4.1).
LOSS_CUT = 0.5  # figure 4 shows the losses below it
SECONDS_CUT = 0.04  # figure 6 shows the steps that took less, in seconds
MEAN_SECONDS = 0.013593  # of a step, with the cut and without it
TICK_STEPS = 1_170  # 2.5 epochs between two ticks of the step axis
Y_TICKS = 10  # intervals that the value axis is divided into
DPI = 300


@dataclass(frozen=True)
class Stated:
    """One number of the paper: which row of `History.summary()` it is, its value as printed, and where it stands."""

    key: str
    value: float
    where: str


STATED = (
    Stated("steps", 11_700, "section 2.3"),
    Stated("epochs", 25, "section 2.3"),
    Stated("lowest_step_loss", 0.000295, "figure 3"),
    Stated("lowest_step_loss_step", 9_823, "figure 3"),
    Stated("lowest_step_loss_epoch", 21, "figure 3"),
    Stated("total_seconds", 160.049, "figure 6"),
    Stated("mean_seconds", 0.013593, "figure 6"),
    Stated("seconds_cut", 0.04, "figure 6"),
    Stated("total_seconds_under_cut", 158.673, "figure 6"),
    Stated("mean_seconds_under_cut", 0.013593, "figure 6"),
    Stated("eval_seconds", 44.615, "figure 6"),
    Stated("mean_eval_seconds", 1.785, "figure 6"),
    Stated("lowest_val_loss", 0.01824, "figure 7"),
    Stated("lowest_val_loss_epoch", 23, "figure 7"),
    Stated("last_val_loss", 0.022014, "figure 7"),
    Stated("last_val_loss", 0.01967, "section 3"),
    # Listings 2.3 and 4.1 keep one batch's loss for an epoch, that of the step at which the epoch was evaluated.
    Stated("lowest_end_loss", 0.011340, "figure 8"),
    Stated("lowest_end_loss_epoch", 19, "figure 8"),
    Stated("last_end_loss", 0.01597, "section 3"),
    Stated("best_batch_accuracy", 99.519, "figure 9"),
    Stated("best_batch_accuracy_epoch", 23, "figure 9"),
    Stated("last_batch_accuracy", 99.479, "section 3"),
)


@dataclass(frozen=True)
class Contradiction:
    """A place where the paper disagrees with itself or with what is known; `numbers` is what the arithmetic needs."""

    title: str
    says: str
    but: str
    where: str
    numbers: dict[str, float]


CONTRADICTIONS = (
    Contradiction(
        title="Adam is not an activation",
        says="The activation Adam turns the dense layer's output into ten probabilities.",
        but="Adam is the optimiser. The probabilities are a softmax of the logits, inside the cross-entropy.",
        where="section 2.2",
        numbers={},
    ),
    Contradiction(
        title="One mean for two totals",
        says="158.673 s with the cut and 160.049 s without it both have a mean of 0.013593 s.",
        but="Over the same 11,700 steps the two totals have two means, and neither of them is 0.013593 s.",
        where="figure 6",
        numbers={
            "total_seconds": 160.049,
            "total_seconds_under_cut": 158.673,
            "mean_seconds": 0.013593,
            "steps": 11_700,
        },
    ),
    Contradiction(
        title="Preparation is in neither total",
        says="Preparing the data and evaluating cost 44.615 s, 1.785 s an epoch.",
        but="The total with them and the total without them differ by little more than a second.",
        where="figure 6",
        numbers={
            "eval_seconds": 44.615,
            "mean_eval_seconds": 1.785,
            "epochs": 25,
            "total_seconds": 160.049,
            "total_seconds_under_cut": 158.673,
        },
    ),
    Contradiction(
        title="Two test losses of the last epoch",
        says="The last test loss is 0.022014.",
        but="The conclusion gives 0.01967.",
        where="figure 7, section 3",
        numbers={"figure_7": 0.022014, "section_3": 0.01967},
    ),
    Contradiction(
        title="99.479 % of what?",
        says="99.479 % of the 10,000 test images are recognised.",
        but="A share of 10,000 images is a multiple of 0.01 %. Of the 9,984 images in 78 full batches it is one: the "
        "listing averages batch accuracies, and the short last batch of 16 seems to have been left out.",
        where="section 3, listing 2.4",
        numbers={"accuracy": 99.479, "best_accuracy": 99.519, "test_images": 10_000, "batch_size": 128},
    ),
    Contradiction(
        title="One batch stands for an epoch",
        says="The training loss of the last epoch is 0.01597, below the test loss.",
        but="It is the loss of a single batch of 128 images, which jumps from step to step.",
        where="figure 8, listing 2.3",
        numbers={"loss": 0.01597, "batch_size": 128, "steps": 468},
    ),
    Contradiction(
        title="Gradients for nothing",
        says="The test images are evaluated with the model in evaluation mode.",
        but="Gradients stay switched on meanwhile (no `no_grad`), which costs time and memory and is never used.",
        where="listing 2.4",
        numbers={},
    ),
    Contradiction(
        title="The best epoch is no better than the last",
        says="The best accuracy is 99.519 %, in epoch 23; the last is 99.479 %.",
        but="One run, no seed, the epoch chosen on the test set: the difference is smaller than the standard error.",
        where="figure 9, section 3",
        numbers={"accuracy": 99.479, "best_accuracy": 99.519, "test_images": 10_000},
    ),
    Contradiction(
        title="A drawing is not framed as MNIST framed its digits",
        says="The red rectangle is stretched to 28×28 and recognised.",
        but="MNIST keeps the aspect ratio, fits the digit into 20×20 and centres it by its mass.",
        where="section 2.5, listing 4.2",
        numbers={"side": 28, "mnist_side": 20},
    ),
)
