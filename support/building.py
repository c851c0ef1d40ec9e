"""Building blocks of the nets: layers whose first weights a seed decides, whatever ~/.keras/keras.json says."""

import random
from collections.abc import Iterator

import keras

FIXED = {"data_format": "channels_last", "dtype": "float32"}  # options for the layers that have both
# Keras saves these activations by the names that TensorFlow gives them, and does not know the names when it loads them.
TF_NN = {  # of tf.nn; Keras finds the others by theirs
    "softmax_v2": keras.activations.softmax,
    "log_softmax_v2": keras.activations.log_softmax,
    "swish": keras.activations.silu,
}


def layer_seeds(seed: int | None) -> Iterator[int | None]:
    """Yield seeds for layers that draw random numbers, without end; always None if `seed` is None.

    They are the seeds that layers get after keras.utils.set_random_seed(seed). But that also sets Python's random
    state for the whole process, which the other threads of a Dask worker share.
    """
    source = random.Random(seed)
    while True:
        yield None if seed is None else source.randint(1, 10**9)


def dropout_states(model: keras.Model) -> list[keras.Variable]:
    """The random states of a model's layers, such as dropout: variables of two integers, a seed and a counter."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def dense(units: int, activation: str | None, seed: int | None) -> keras.layers.Dense:
    """A dense layer whose first weights are drawn from `seed`, with Keras' default distribution."""
    initializer = keras.initializers.GlorotUniform(seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer, dtype="float32")
