"""What calibrated exits say and lose, and which thresholds are proved to keep to a target: the
mathematics of tools/calibrate.py, whose text tells how they go together."""

import dataclasses
import itertools
import math
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import modelfile  # noqa: E402

MAX_COMBINATIONS = 4096
# Of the confidence interval of the discordance rate; a part of the p-value.
LIMIT_ERROR = 0.0005
DISCORDANCE_RATES = 16


# ---- what exits say ------------------------------------------------------------------------------


def softmax(logits, temperature=1.0):
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def negative_log_likelihood(logits, labels, temperature):
    chosen = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def fit_temperature(logits, labels):
    """The temperature with the least negative log likelihood, by golden section on its logarithm:
    the function has one minimum."""
    low, high = (math.log(limit) for limit in modelfile.TEMPERATURES)
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(logits, labels, math.exp(left)) < negative_log_likelihood(
            logits, labels, math.exp(right)
        ):
            high = right
        else:
            low = left
    return float(f"{math.exp((low + high) / 2):.4g}")


def calibration_error(probabilities, labels, bins=15):
    """Expected calibration error: bins of equal width, as Guo et al. (2017)."""
    confidence, said = probabilities.max(axis=1), probabilities.argmax(axis=1)
    where = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs((said == labels)[where == one].mean() - confidence[where == one].mean())
        * (where == one).mean()
        for one in range(bins)
        if (where == one).any()
    ]
    return float(sum(gaps))


def doubts_of(criterion, probabilities, labels_said):
    """[pictures, exits], as engine/exits.h. `probabilities` is [pictures, exits, classes]."""
    ordered = np.sort(probabilities, axis=2)
    if criterion == "entropy":
        logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
        return -(probabilities * logs).sum(axis=2) / math.log(probabilities.shape[2])
    if criterion == "probability":
        return 1 - ordered[:, :, -1]
    if criterion == "margin":
        return 1 - (ordered[:, :, -1] - ordered[:, :, -2])
    agreeing = np.ones(labels_said.shape)
    for exit in range(1, labels_said.shape[1]):
        same = labels_said[:, exit] == labels_said[:, exit - 1]
        agreeing[:, exit] = np.where(same, agreeing[:, exit - 1] + 1, 1)
    return 1 / agreeing


def exits_taken(doubts, thresholds):
    """Index of the exit that answers each picture; the last one always does."""
    sure = doubts < np.array([*thresholds, np.inf])
    return sure.argmax(axis=1)


# ---- choosing ------------------------------------------------------------------------------------


def threshold_grid(doubts, levels):
    """0, and numbers halfway between quantiles of the doubts, so that none equals a doubt."""
    values = np.unique(np.quantile(doubts, np.linspace(0, 1, levels)))
    between = (values[1:] + values[:-1]) / 2
    return np.concatenate([[0.0], [float(f"{t:.6g}") for t in between], [1.0]])


def careful_to_bold(doubts, expected_loss, costs):
    """Combinations of thresholds, of which none is cheaper and loses less; the one that never
    answers early is left out. `expected_loss` is [pictures, exits], `costs` up to each exit."""
    early = doubts.shape[1] - 1
    levels = max(3, min(64, int(MAX_COMBINATIONS ** (1 / max(early, 1)))))
    grids = [threshold_grid(doubts[:, exit], levels) for exit in range(early)]
    pictures, tried = np.arange(len(doubts)), []
    for thresholds in itertools.product(*grids):
        taken = exits_taken(doubts, thresholds)
        tried.append((costs[taken].mean(), expected_loss[pictures, taken].mean(), thresholds))
    tried.sort(key=lambda one: (one[1], one[0]))
    kept, cheapest = [], costs[-1]
    for cost, _, thresholds in tried:
        if cost < cheapest:
            kept.append(thresholds)
            cheapest = cost
    return kept


class LogFactorials:
    """Of 0..n, once."""

    table = np.zeros(1)

    @classmethod
    def up_to(cls, n):
        if len(cls.table) <= n:
            cls.table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
        return cls.table


def binomial_at_most(count, n, rate):
    """P(Binomial(n, rate) <= count)."""
    if rate <= 0 or count >= n:
        return 1.0
    if rate >= 1:
        return 0.0
    logs, k = LogFactorials.up_to(n), np.arange(count + 1)
    terms = logs[n] - logs[k] - logs[n - k] + k * math.log(rate) + (n - k) * math.log1p(-rate)
    return float(np.exp(terms).sum())


def upper_limit(count, n, error):
    """Clopper and Pearson's upper limit of a rate: exceeded with probability `error` at most."""
    low, high = count / n, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_at_most(count, n, middle) > error else (low, middle)
    return high


def loss_at_most(total, n, losing, gaining):
    """P(S <= total) for the sum S of n independent numbers, +1 with probability `losing`, -1 with
    probability `gaining`, else 0; from its characteristic function."""
    size = 1 << (2 * n + 1).bit_length()
    turn = np.exp(2j * np.pi * np.arange(size) / size)
    density = np.fft.fft((1 - losing - gaining + losing * turn + gaining / turn) ** n).real / size
    return float(sum(density[np.arange(-n, total + 1)])) if total >= -n else 0.0


def p_value(losses, gains, n, most):
    """Of "the mean loss exceeds `most`" (0.003 for 0.3 points), after so many losses and gains among
    n pictures."""
    limit = upper_limit(losses + gains, n, LIMIT_ERROR)
    rates = np.linspace(most, limit, DISCORDANCE_RATES) if limit >= most else []
    worst = max(
        (
            loss_at_most(losses - gains, n, (rate + most) / 2, max(rate - most, 0) / 2)
            for rate in rates
        ),
        default=0.0,
    )
    return min(1.0, worst + LIMIT_ERROR)


@dataclasses.dataclass
class Choice:
    """Thresholds for a target, and what they do on the pictures they were tested on."""

    points: float
    thresholds: tuple
    taken: np.ndarray
    losses: int
    gains: int
    p: float  # 0 when no picture leaves early

    @property
    def loss_points(self):
        return 100 * (self.losses - self.gains) / len(self.taken)


def choose(points, path, doubts, right, confidence):
    """The boldest of `path` up to the first that cannot be told from losing more than `points`.
    `doubts` and `right` are [pictures, exits], of pictures that the path does not depend on."""
    n, exits = doubts.shape
    pictures = np.arange(n)

    def outcome(thresholds, p=0.0):
        taken = exits_taken(doubts, thresholds)
        early = right[pictures, taken]
        losses, gains = int((right[:, -1] & ~early).sum()), int((~right[:, -1] & early).sum())
        return Choice(points, thresholds, taken, losses, gains, p)

    chosen = outcome((0.0,) * (exits - 1))
    for thresholds in path:
        candidate = outcome(thresholds)
        candidate.p = p_value(candidate.losses, candidate.gains, n, points / 100)
        if candidate.p > 1 - confidence:
            break
        chosen = candidate
    return chosen
