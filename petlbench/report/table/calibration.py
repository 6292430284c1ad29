"""Calibration: how far the confidence of a network is from its accuracy.

Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from petlbench.data.predictions import Predictions

BINS = 15  # of equal width, as in the paper
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are tried
LOWEST = -1e4  # log-probability; float16 has made smaller ones infinite
Array = NDArray[np.float64]


def calibration_error(split: Predictions, temperature: float = 1.0) -> float:
    """Expected calibration error in percent, eq. 3: sum over bins of |B| / n |acc(B) - conf(B)|.

    temperature: T, which divides the logits; it changes no predicted class.
    """
    logs = tempered(split, temperature)
    confidence = np.exp(logs[np.arange(len(split)), split.predicted])
    right = (split.predicted == split.labels).astype(float)
    # bin m is ((m - 1) / 15, m / 15]
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(100 * np.abs(gaps).sum() / len(split))


def fitted_temperature(val: Predictions) -> float:
    """The T with the least negative log-likelihood on validation images, section 4.2."""

    def loss(log_temperature: float) -> float:
        logs = tempered(val, float(np.exp(log_temperature)))
        return -float(logs[np.arange(len(val)), val.labels].mean())

    ends = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=ends, method="bounded").x))


def tempered(split: Predictions, temperature: float) -> Array:
    """(N, K) log-probabilities of the softmax of logits / T."""
    # log-probabilities are logits up to a constant of each image
    scaled: Array = np.maximum(split.log_probabilities, LOWEST).astype(float) / temperature
    top = scaled.max(axis=1, keepdims=True)
    logs: Array = scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
    return logs
