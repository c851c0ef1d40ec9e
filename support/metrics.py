"""The formulas of a report, in float64: from counts and logits to numbers."""

import math

import numpy as np

ECE_BINS = 15


def log_softmax(logits):
    """Logarithms of the classes' probabilities, (n, C) -> (n, C) float64."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def wilson_interval(hits, number):
    """The 95 % Wilson score interval of the share hits / number: (low, high), fractions."""
    z = 1.959964
    share, spread = hits / number, z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / number + spread / (4 * number))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # never past it by rounding


def mcnemar_exact(only_first, only_second):
    """The two-sided p-value of the exact McNemar test. Null hypothesis: both models are right equally often.

    only_first, only_second: the number of images on which only this one of the two models is right.
    """
    number = only_first + only_second
    ways = tail = 1  # the binomial coefficient of k in `number`, and the sum up to k
    for k in range(min(only_first, only_second)):
        ways = ways * (number - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**number)


def paired_p(first, second):
    """The two-sided p-value for two kinds of nets, several seeds of each. Null hypothesis: both err equally often on
    each image.

    first, second: (n,) the number of seeds that are wrong on each image. The images are the sample, not the seeds:
    under the null hypothesis the difference on an image has either sign with the same probability. Normal
    approximation of that sign-flip test.
    """
    difference = np.subtract(first, second, dtype=float)
    return math.erfc(abs(difference.sum()) / math.sqrt(2 * max(1.0, (difference**2).sum())))


def confusion_counts(labels, classes, num_classes):
    """The number of images of each label (row) that a model puts into each other class (column): (C, C), 0 where
    right.
    """
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, classes), 1)
    np.fill_diagonal(counts, 0)
    return counts


def nll(labels, logits):
    """The mean negative log-likelihood of labels (n,) under logits (n, C), in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def kl(teacher_logits, logits):
    """The mean of KL(teacher || model) at temperature 1, both logits (n, C), in nats."""
    teacher, model = log_softmax(teacher_logits), log_softmax(logits)
    return float((np.exp(teacher) * (teacher - model)).sum(-1).mean())


def reliability(labels, logits):
    """Images sorted into ECE_BINS equal-width bins of confidence: (number, mean accuracy, mean confidence),
    (ECE_BINS,) each.

    The confidence is the highest probability of logits (n, C). The means of an empty bin are nan.
    """
    probabilities = np.exp(log_softmax(logits))
    confidence, hits = probabilities.max(-1), probabilities.argmax(-1) == labels
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    images = np.bincount(bins, minlength=ECE_BINS)
    with np.errstate(invalid="ignore"):
        return images, *(np.bincount(bins, values, ECE_BINS) / images for values in (hits, confidence))


def ece(labels, logits):
    """The expected calibration error of logits (n, C): a fraction (Guo et al. 2017).

    The mean over the bins of `reliability` of |accuracy - confidence|, weighted by the number of images in a bin.
    """
    images, accuracy, confidence = reliability(labels, logits)
    return float(np.nansum(images * np.abs(accuracy - confidence)) / len(labels))


def best_temperature(labels, logits):
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
