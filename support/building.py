"""What the nets of this project are built of: layers that a seed decides, whatever ~/.keras/keras.json says."""

import random

import keras

FIXED = {"data_format": "channels_last", "dtype": "float32"}  # for layers that take them


def layer_seeds(seed):
    """Yields a seed for each layer that draws numbers; without end, None if `seed` is None.

    They are those that keras.utils.set_random_seed(seed) would lead to. But that sets Python's random state for the
    whole process, and a Dask worker's other threads draw from it.
    """
    source = random.Random(seed)
    while True:
        yield None if seed is None else source.randint(1, 10**9)


def dropout_states(model):
    """The variables, two integers each, from which a model's dropout and other random layers draw: a seed, and how
    often it was used.
    """
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def dense(units, activation, seed):
    """A dense layer whose first weights this seed decides: Keras' default distribution."""
    initializer = keras.initializers.GlorotUniform(seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer, dtype="float32")
