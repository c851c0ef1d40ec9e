"""Random distortions: each image is rotated, scaled, shifted and bent by random amounts of its own."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

IMAGES_AT_ONCE = 5000  # intermediate results take about 50 bytes for each pixel
KNOTS = 5  # control points, along each side, of the smooth field that bends an image


class Distortion(NamedTuple):
    """The largest amounts. Those of an image are drawn uniformly between minus and plus these."""

    rotation: float = 0.0  # degrees
    scaling: float = 0.0  # a fraction, of height and of width
    translation: float = 0.0  # pixels, down and to the right
    elastic: float = 0.0  # pixels: a smooth random field, whose root mean square is 0.58 times this


def distortion(strength: float) -> Distortion | None:
    """The Distortion that `--distort STRENGTH` stands for; None for 0."""
    return Distortion(10 * strength, 0.1 * strength, 1.5 * strength, 2 * strength) if strength else None


def distort(images: np.ndarray | tf.Tensor, seed: Sequence[int], distortion: Distortion) -> tf.Tensor:
    """Distort images (n, h, w) or (n, h, w, c), uint8 or float32; returns the same shape and dtype.

    seed: two integers, from which all amounts are drawn. Sampling is bilinear, and 0 outside the image. After Simard
    et al. (2003): their affine distortions, and their elastic ones on a coarse grid.
    """
    draws = tf.random.stateless_uniform((len(images), 5 + 2 * KNOTS**2), seed, -1.0, 1.0)
    amounts = tf.constant(distortion, tf.float32)
    slices = [slice(start, start + IMAGES_AT_ONCE) for start in range(0, len(images), IMAGES_AT_ONCE)]
    return tf.concat([_resample(images[chosen], draws[chosen], amounts) for chosen in slices], 0)


@tf.function(jit_compile=True)  # one loop instead of thirty passes over memory
def _resample(images: tf.Tensor, draws: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """`distort` for given draws, (n, 5 + 2 * KNOTS**2) in [-1, 1], and the four amounts of a Distortion."""
    height, width, *channels = images.shape[1:]
    rotation, scaling, translation, elastic = tf.unstack(amounts)
    angle = draws[:, 0, None, None] * rotation * (np.pi / 180)
    zoom = 1 + draws[:, 1:3, None, None] * scaling
    shift = draws[:, 3:5, None, None] * translation
    y = tf.range(height, dtype=tf.float32)[:, None] - (height - 1) / 2
    x = tf.range(width, dtype=tf.float32)[None, :] - (width - 1) / 2
    knots = tf.reshape(draws[:, 5:], (-1, 2, KNOTS, KNOTS))
    bend = elastic * tf.einsum("hk,bckl,wl->bchw", _bumps(height), knots, _bumps(width))
    # Where in the image each pixel of the result is sampled.
    rows = (tf.cos(angle) * y - tf.sin(angle) * x) * zoom[:, 0] + shift[:, 0] + bend[:, 0] + (height - 1) / 2
    columns = (tf.sin(angle) * y + tf.cos(angle) * x) * zoom[:, 1] + shift[:, 1] + bend[:, 1] + (width - 1) / 2
    rows, columns = tf.clip_by_value(rows, -1, height), tf.clip_by_value(columns, -1, width)
    # A border of zeros, so that all four neighbours of every position exist.
    bordered = tf.pad(tf.cast(images, tf.float32), [(0, 0), (1, 2), (1, 2), *((0, 0) for _ in channels)])
    bordered = tf.reshape(bordered, (-1, (height + 3) * (width + 3), *channels))
    top, left = tf.floor(rows), tf.floor(columns)
    over_channels = (-1, height, width, *(1 for _ in channels))  # a shape: the weights are the same for all channels
    down, right = tf.reshape(rows - top, over_channels), tf.reshape(columns - left, over_channels)
    corner = (tf.cast(top, tf.int32) + 1) * (width + 3) + tf.cast(left, tf.int32) + 1

    def pixels(offset: int) -> tf.Tensor:
        return tf.gather(bordered, corner + offset, batch_dims=1)

    upper = (1 - right) * pixels(0) + right * pixels(1)
    lower = (1 - right) * pixels(width + 3) + right * pixels(width + 4)
    distorted = (1 - down) * upper + down * lower
    return tf.cast(tf.round(distorted), tf.uint8) if images.dtype == tf.uint8 else distorted


def _bumps(length: int) -> np.ndarray:
    """Gaussian bumps around KNOTS points along a side, (length, KNOTS); their squares sum to 1 at each pixel."""
    positions, centres = np.arange(length)[:, None], np.linspace(0, length - 1, KNOTS)
    bumps = np.exp(-0.5 * ((positions - centres) / (0.75 * max(length - 1, 1) / (KNOTS - 1))) ** 2)
    return (bumps / np.linalg.norm(bumps, axis=1, keepdims=True)).astype(np.float32)
