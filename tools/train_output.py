"""What a training run shows and keeps: progress on stderr, checkpoints, the picture of curves."""

import inspect
import os
import pickle
import sys
import time

import torch

from commandline import Stop


def first_line(error):
    return str(error).partition("\n")[0] or type(error).__name__


def load(path, device="cpu"):
    """torch.load that runs no code from the file, wherever PyTorch can do that."""
    can = "weights_only" in inspect.signature(torch.load).parameters
    safely = {"weights_only": True} if can else {}
    try:
        return torch.load(path, map_location=device, **safely)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise Stop(65, f"{path}: wanted a checkpoint, found {first_line(error)}") from error


def write(path, save):
    """Calls save(file), then puts the file in place at once: `path` is never half written."""
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Stop(73, f"{path}: cannot be written: {error.strerror or error}") from error


class Progress:
    """On stderr: a bar that is redrawn when that is a terminal; elsewhere only whole lines."""

    def __init__(self):
        self.live = sys.stderr.isatty()
        self.drawn = 0.0

    def due(self):
        """Whether it is time to draw the bar: making its text may cost something too."""
        return self.live and time.monotonic() - self.drawn > 0.1

    def bar(self, label, done, total, note):
        self.drawn = time.monotonic()
        filled = 30 * done // total
        bar = "#" * filled + "." * (30 - filled)
        text = f"\r\x1b[K{label} [{bar}] {100 * done // total:3d} %  {note}"
        print(text, end="", file=sys.stderr, flush=True)

    def line(self, text):
        print(("\r\x1b[K" if self.live else "") + text, file=sys.stderr, flush=True)


def percent(accuracies):
    return " / ".join(f"{a:.2f}" for a in accuracies) + " %"


def draw(history, test, options, path, progress):
    """Accuracy of every exit over the epochs, as a picture."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        progress.line(f"{path}: not drawn, matplotlib is not installed")
        return
    epochs = [entry["epoch"] for entry in history]
    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=150)
    colours = ["#0072b2", "#d55e00", "#009e73"]  # Okabe and Ito's, for colour-blind readers too
    for index, accuracy in enumerate(test):
        values = [entry["heldout_accuracy"][index] for entry in history]
        axes.plot(
            epochs,
            values,
            color=colours[index],
            linewidth=1.8,
            marker="o" if len(epochs) < 12 else None,
            markersize=4,
            clip_on=False,
            label=f"exit {index + 1} (test {accuracy:.2f} %)",
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy on held-out pictures, %")
    axes.set_xlim(1 if len(epochs) > 1 else 0, max(epochs[-1], 2))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{options.network}, {options.heads} heads: every exit", loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    write(path, lambda file: figure.savefig(file, format="png"))
    pyplot.close(figure)
