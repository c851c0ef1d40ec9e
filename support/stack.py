"""Many dense students of one shape as one Keras model: nine tenths of their work, the first layer, is one product."""

from collections.abc import Sequence

from support.building import FIXED, TF_NN

import keras
import numpy as np


def can_be_stacked(model: keras.Model) -> bool:
    """Whether a net is one of plain dense layers, after layers without any variable, as Stack wants it."""
    layers = getattr(model, "layers", [])
    places = [place for place, layer in enumerate(layers) if layer.variables]
    return isinstance(model, keras.Sequential) and all(
        type(layer) is keras.layers.Dense
        and layer.use_bias
        and len(layer.input.shape) == 2
        and not (layer.kernel_regularizer or layer.bias_regularizer or layer.activity_regularizer)
        and not (layer.kernel_constraint or layer.bias_constraint)
        for layer in layers[min(places, default=0) :]
    )


class Stack(keras.Model):
    """K dense students that see the same images: (batch, *shape) float32 -> logits (batch, K, C) float32.

    students: nets of student.build_student that differ only in their weights, which are copied. A loss of such logits
    is (batch, K), and its sum over K trains each student as if it were alone, apart from rounding: none of them has an
    effect on another one, even if its weights are no longer finite.
    """

    def __init__(self, students: Sequence[keras.Model]) -> None:
        images = keras.Input(students[0].input_shape[1:], dtype="float32")
        values, num_students, is_first = images, len(students), True
        for layer in students[0].layers:
            if not isinstance(layer, keras.layers.Dense):  # it has no weights
                with keras.saving.custom_object_scope(TF_NN):
                    values = type(layer).from_config(layer.get_config())(values)
            elif is_first:
                options = {"activation": layer.activation, "dtype": FIXED["dtype"]}
                values = keras.layers.Dense(num_students * layer.units, **options)(values)
                values = keras.layers.Reshape((num_students, layer.units), dtype=FIXED["dtype"])(values)
                is_first = False
            else:
                options = {"activation": layer.activation, "bias_axes": "ku", "dtype": FIXED["dtype"]}
                shape = num_students, layer.units
                values = keras.layers.EinsumDense("bki,kiu->bku", shape, **options)(values)
        super().__init__(images, values, name="stack")
        first_kernels, first_biases, *others = zip(*(student.get_weights() for student in students))
        stacked = [np.stack(weights) for weights in others]
        self.set_weights([np.concatenate(first_kernels, axis=1), np.concatenate(first_biases), *stacked])

    def unstack(self, students: Sequence[keras.Model]) -> None:
        """Copy the weights back into the K students."""
        first_kernels, first_biases, *others = self.get_weights()
        kernels, biases = np.split(first_kernels, len(students), axis=1), np.split(first_biases, len(students))
        for student, kernel, bias, *weights in zip(students, kernels, biases, *others):
            student.set_weights([kernel, bias, *weights])
