"""What train.py does with a batch: the learning rate, the loss of each exit and who teaches it,
what the early heads send back into the trunk, and the running average of the weights."""

import copy
import math

import torch
from torch.nn import functional

import cifar10
import networks
from commandline import Stop
from train_output import first_line, load

WARM_UP = 0.3  # share of the one-cycle schedule in which the learning rate rises


def learning_rate(step, steps, options):
    """A function of the step alone, so that there is no schedule to save."""
    rise = WARM_UP * steps if options.schedule == "onecycle" else 0
    if step < rise:
        return options.lr * (step + 1) / (rise + 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def loss_weights(epoch, options):
    """One per exit: the last exit alone while the trunk is trained, then those of the recipe."""
    if epoch < options.trunk_epochs:
        return [0.0] * (len(options.loss_weights) - 1) + [1.0]
    return options.loss_weights


def exit_losses(outputs, labels, options, teacher=None):
    """The loss of each exit, with distillation (Hinton et al., 2015); a = alpha,
    T = temperature, q = softmax(exit / T), p = softmax(logits of who teaches / T):

        (1 - a) CE(label) + a T^2 mean over teachers of KL(p || q)

    The last exit teaches the early ones; the logits [N, classes] of a larger network, where there
    are any, teach all. An exit that nobody teaches has CE(label) alone.
    """
    temperature = options.distill_temperature
    taught = options.distill_alpha > 0
    larger = [teacher] if taught and teacher is not None else []
    losses = []
    for index, logits in enumerate(outputs):
        logits = logits.float()
        loss = functional.cross_entropy(logits, labels)
        teachers = list(larger)
        if taught and index + 1 < len(outputs):
            teachers.append(outputs[-1].detach())
        if teachers:
            student = functional.log_softmax(logits / temperature, dim=1)
            distances = [
                functional.kl_div(
                    student,
                    functional.softmax(said.float() / temperature, dim=1),
                    reduction="batchmean",
                )
                for said in teachers
            ]
            distance = sum(distances) / len(distances)
            alpha = options.distill_alpha
            loss = (1 - alpha) * loss + alpha * temperature**2 * distance
        losses.append(loss)
    return losses


def scale_branch_gradients(model, scale):
    """Multiplies by `scale` what each early head sends back into the trunk; the heads themselves
    learn as before (Li et al., "Improved Techniques for Training Adaptive Deep Networks", 2019)."""
    if scale == 1:
        return
    heads = sorted(name for name, _ in model.named_children() if name.startswith("exit"))
    for name in heads[:-1]:
        getattr(model, name).register_full_backward_hook(
            lambda _module, into_trunk, _from_loss: tuple(g * scale for g in into_trunk)
        )


class Average:
    """Exponential moving average of weights and batch norm statistics: a <- d a + (1 - d) w, where
    d rises to `decay` over the first steps, so that the start is soon forgotten."""

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, value in zip(self.model.state_dict().values(), model.state_dict().values()):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def load_teacher(path, device, mean, std, heldout):
    """The network of a checkpoint of train.py, to be asked for the logits of its last exit. It must
    have been trained on the same pictures: with the same mean and standard deviation, and with the
    same ones held out, or it would tell of those. Raises Stop."""
    card = load(path, device)
    try:
        model = networks.build(
            card["name"],
            heads=card["heads"],
            shortcut=card["shortcut"],
            exits=card["exits"],
            classes=len(card["classes"]),
        )
        model.load_state_dict(card["state_dict"])
        same = all(
            torch.equal(card[key].cpu(), value)
            for key, value in (("mean", mean), ("std", std), ("val_idx", heldout))
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        found = f"{type(error).__name__}: {first_line(error)}"
        raise Stop(65, f"{path}: wanted a checkpoint of train.py, found {found}") from error
    if not same or list(card["classes"]) != cifar10.CLASSES:
        raise Stop(65, f"{path}: wanted a teacher trained on the same pictures, found others")
    return model.to(device).eval().requires_grad_(False)
