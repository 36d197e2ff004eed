"""The options of train.py, and how it ends when it cannot go on."""

import argparse
import math

import torch

import networks
from commandline import Parser, Stop


# What --budget sets where the command line does not: ResNet-20 on two CPU cores in two hours.
BUDGET = {"epochs": 80, "trunk_epochs": 16}


def number(kind, low, high=math.inf, above=False):
    """Converter for argparse: a number in [low, high], or in (low, high] with `above`."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low < value <= high if above else low <= value <= high):
            bounds = f"{'above' if above else 'at least'} {low}"
            bounds += f", at most {high}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"wanted a number {bounds}, found {text!r}")
        return value

    return convert


def parse(argv, description):
    """The options, checked: `loss_weights` has one number per exit, `device` is cpu or cuda.
    Raises Stop."""
    parser = Parser(
        description=description,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data",
        metavar="DIR",
        help="data_batch_1..5.bin and test_batch.bin, or their parent folder",
    )
    add("--out", metavar="DIR", help="folder for the results")
    add(
        "--bench",
        action="store_true",
        help="train nothing: measure a training and an inference step of --network with --batch "
        "random pictures, on the CPU and on a GPU where there is one",
    )
    add(
        "--network",
        default="resnet20",
        help=f"one of {', '.join(networks.NAMES)} (default resnet20)",
    )
    add(
        "--heads",
        default="pyramid",
        help="early heads of the ResNets: pyramid (default), strong or classic",
    )
    add(
        "--shortcut",
        default="conv",
        help="where the ResNets halve the picture: conv (default) or pad",
    )
    add(
        "--no-exits",
        action="store_true",
        help="the last exit alone: a yardstick, or a teacher",
    )
    add(
        "--budget",
        action="store_true",
        help="a shorter recipe, for two CPU cores and two hours: "
        + ", ".join(f"--{k.replace('_', '-')} {v}" for k, v in BUDGET.items()),
    )
    add("--epochs", type=number(int, 1), default=200, help="(default 200)")
    add(
        "--trunk-epochs",
        type=number(int, 0),
        metavar="N",
        help="the first N epochs train trunk and last exit alone (default: a fifth of --epochs)",
    )
    add("--batch", type=number(int, 2), default=128)
    add(
        "--lr",
        type=number(float, 0, 100, above=True),
        default=0.2,
        help="highest learning rate (default 0.2)",
    )
    add(
        "--schedule",
        choices=("onecycle", "cosine"),
        default="onecycle",
        help="onecycle (default): linear rise over 30 %%, half a cosine to 0; cosine: that alone",
    )
    add(
        "--weight-decay",
        type=number(float, 0, 1),
        default=5e-4,
        help="not on biases and norms (default 5e-4)",
    )
    add(
        "--loss-weights",
        metavar="W,...",
        help="one per exit, earliest first (default 0.5,0.7,1; two exits: 0.5,1; one: 1)",
    )
    add(
        "--distill-alpha",
        type=number(float, 0, 1),
        default=0.5,
        help="share of what the last exit and --teacher say in the loss (default 0.5; 0: labels "
        "alone)",
    )
    add(
        "--teacher",
        metavar="CHECKPOINT",
        help="checkpoint.pt of a larger network, whose last exit teaches every exit",
    )
    add(
        "--branch-gradient",
        type=number(float, 0, 1),
        default=1.0,
        help="factor on what the early exits send back into the trunk (default 1)",
    )
    add(
        "--ema",
        type=number(float, 0, 0.99999),
        default=0.998,
        help="decay of the running average of the weights, which is what is kept (default 0.998; "
        "0: the weights themselves)",
    )
    add(
        "--distill-temperature",
        type=number(float, 0, 100, above=True),
        default=3.0,
        help="(default 3)",
    )
    add(
        "--holdout",
        type=number(int, 1),
        default=5000,
        help="training pictures never trained on (default 5000)",
    )
    add(
        "--limit",
        type=number(int, 2),
        metavar="N",
        help="at most N pictures of each kind, for a try",
    )
    add("--seed", type=number(int, 0, 2**31), default=1)
    add(
        "--seeds",
        metavar="N,...",
        help="one run for each, in a folder of its own; mean and standard deviation",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add(
        "--amp",
        action="store_true",
        help="half precision where it is safe: float16 on CUDA; bfloat16 on a CPU, faster where "
        "it has instructions for that (amx_bf16, avx512_bf16) and slower where it has none",
    )
    add(
        "--threads",
        type=number(int, 1, 1024),
        metavar="N",
        help="CPU threads (default: PyTorch's choice)",
    )
    add(
        "--resume", action="store_true", help="continue the run in --out; begin it if there is none"
    )
    if parser.parse_args(argv).budget:
        parser.set_defaults(**BUDGET)
    options = parser.parse_args(argv)
    del options.budget  # the recipe says what it stands for

    for name, known in (
        ("network", networks.NAMES),
        ("heads", networks.HEADS),
        ("shortcut", networks.SHORTCUTS),
    ):
        if getattr(options, name) not in known:
            raise Stop(
                64, f"--{name}: wanted one of {', '.join(known)}, found {getattr(options, name)!r}"
            )
    if not options.bench:
        missing = [name for name in ("data", "out") if not getattr(options, name)]
        if missing:
            raise Stop(64, f"wanted --{missing[0]} DIR, found none (--help lists the options)")
        if options.network not in networks.SMALL:
            raise Stop(
                64,
                f"--network: wanted one for pictures of 32x32, {', '.join(networks.SMALL)}, or "
                f"--bench, found {options.network!r}",
            )
    exits = networks.exit_count(options.network, not options.no_exits)
    options.loss_weights = parse_loss_weights(options.loss_weights, exits)
    if options.trunk_epochs is None:
        options.trunk_epochs = options.epochs // 5
    if options.trunk_epochs >= options.epochs:
        raise Stop(
            64,
            f"--trunk-epochs: wanted fewer than the {options.epochs} of --epochs, "
            f"found {options.trunk_epochs}",
        )
    options.seeds = parse_seeds(options.seeds)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        raise Stop(64, "--device cuda: wanted a CUDA device, PyTorch finds none")
    return options


def parse_loss_weights(text, exits):
    if text is None:
        return {1: [1.0], 2: [0.5, 1.0], 3: [0.5, 0.7, 1.0]}[exits]
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    wanted = f"{exits} number{'s' if exits > 1 else ''} of at least 0, not all 0"
    good = len(weights) == exits and all(0 <= w < math.inf for w in weights) and sum(weights) > 0
    if not good:
        raise Stop(64, f"--loss-weights: wanted {wanted}, found {text!r}")
    return weights


def parse_seeds(text):
    """Empty where one run is wanted."""
    if text is None:
        return []
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise Stop(64, f"--seeds: wanted two different numbers or more, found {text!r}")
    return seeds
