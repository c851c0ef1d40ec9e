"""The formulas of a report, in float64: from counts and logits to numbers."""

import math

import numpy as np

ECE_BINS = 15


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of the classes, (n, C) -> (n, C) float64."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def wilson_interval(hits: int, number: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of the fraction hits / number: (low, high)."""
    z = 1.959964
    share, spread = hits / number, z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / number + spread / (4 * number))
    # Rounding must not leave the fraction itself outside.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p-value of the exact McNemar test. Null hypothesis: both models are right equally often.

    only_first, only_second: how many images only the first, or only the second, of two models gets right.
    """
    number = only_first + only_second
    binomial = tail = 1  # the binomial coefficient of k in `number`, and the sum of those up to k
    for k in range(min(only_first, only_second)):
        binomial = binomial * (number - k) // (k + 1)
        tail += binomial
    return min(1.0, 2 * tail / 2**number)


def paired_p(first: np.ndarray, second: np.ndarray) -> float:
    """The two-sided p-value for two kinds of nets, trained with several seeds each.

    Null hypothesis: both kinds are wrong equally often on each image. first, second: (n,) the number of seeds that are
    wrong on each image. The images are the sample, not the seeds: under the null hypothesis, the difference on an
    image is equally likely to have either sign. Normal approximation of that sign-flip test.
    """
    difference = np.subtract(first, second, dtype=float)
    return math.erfc(abs(difference.sum()) / math.sqrt(2 * max(1.0, (difference**2).sum())))


def confusion_counts(labels: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """The number of images of each label (row) that a model assigns to each wrong class (column): (C, C) int.

    labels, classes: (n,), the true and the predicted classes. The diagonal is 0.
    """
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, classes), 1)
    np.fill_diagonal(counts, 0)
    return counts


def nll(labels: np.ndarray, logits: np.ndarray) -> float:
    """The mean negative log-likelihood of labels (n,) under logits (n, C), in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def kl(teacher_logits: np.ndarray, logits: np.ndarray) -> float:
    """The mean of KL(teacher || model) at temperature 1, in nats; both logits are (n, C)."""
    teacher, model = log_softmax(teacher_logits), log_softmax(logits)
    return float((np.exp(teacher) * (teacher - model)).sum(-1).mean())


def reliability(labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort images into ECE_BINS equal-width bins of confidence, the highest probability of their logits (n, C).

    Returns (number of images, accuracy, mean confidence) of the bins, each (ECE_BINS,); the last two are nan for an
    empty bin.
    """
    probabilities = np.exp(log_softmax(logits))
    confidence, hits = probabilities.max(-1), probabilities.argmax(-1) == labels
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    num_images = np.bincount(bins, minlength=ECE_BINS)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(bins, hits, ECE_BINS) / num_images
        mean_confidence = np.bincount(bins, confidence, ECE_BINS) / num_images
    return num_images, accuracy, mean_confidence


def ece(labels: np.ndarray, logits: np.ndarray) -> float:
    """The expected calibration error of logits (n, C): a fraction (Guo et al. 2017).

    The mean of |accuracy - confidence| over the bins of `reliability`, weighted by the number of images in a bin.
    """
    num_images, accuracy, confidence = reliability(labels, logits)
    return float(np.nansum(num_images * np.abs(accuracy - confidence)) / len(labels))


def best_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature, from 0.05 to 20, at which logits (n, C) give labels (n,) the lowest nll (Guo et al. 2017).

    The nll is convex in 1 / T, so it has one minimum in log T, which a golden-section search finds.
    """
    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.05), math.log(20)
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if nll(labels, logits / math.exp(left)) < nll(labels, logits / math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)
