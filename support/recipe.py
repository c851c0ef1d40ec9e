"""Settings: each declared once, with type, default, range and help; options and saved settings derive from that."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from support import UserError

MAX_SEED = 2**32 - 1
VIEWS = ("seed", "batch_size", "translate", "distort")  # the settings that decide what a net sees, and in which order


def integer(least: int, most: int = 10**6) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` to `most`."""
    return _between(int, "a whole number", least, most)


def number(least: float, most: float) -> Callable[[str], float]:
    """An argparse type: a number from `least` to `most`."""
    return _between(float, "a number", least, most)


def _between(kind: Callable[[str], Any], description: str, least: float, most: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:.10g}")
        return value

    return parse


fraction, factor, any_temperature = number(0, 1), number(1e-6, 1e6), number(1e-3, 1e6)
dropout_rate = number(0, 0.999)


def setting(default: Any, parse: Callable[[str], Any] | list[str], help: str, **options: Any) -> Any:
    """A field of a Recipe. parse: an argparse type, or a list of choices. options: more of argparse's add_argument."""
    kind = {"choices": parse} if isinstance(parse, list) else {"type": parse}
    return dataclasses.field(default=default, metadata=kind | {"help": help} | options)


@dataclass(frozen=True)
class Recipe:
    """Settings that belong together. An instance is a set of values; `dataclasses.replace` gives another one."""

    def settings(self) -> dict[str, Any]:
        """The values by name, as JSON gives them back: with lists for tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def only(self, *names: str) -> dict[str, Any]:
        """The values of these names, to be passed on as keyword arguments."""
        return {name: getattr(self, name) for name in names}

    def updated(self, values: Mapping[str, Any]) -> Self:
        """This recipe with those of `values` that are settings of it: saved settings, or a script's parsed options."""
        known = {field.name: values[field.name] for field in dataclasses.fields(self) if field.name in values}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return dataclasses.replace(self, **known)

    def checked(self, **changes: Any) -> Self:
        """This recipe with these changes, from Python: each is held to the range of its option."""
        options = {field.name: field.metadata for field in dataclasses.fields(self)}
        for name, value in changes.items():
            if name not in options:
                raise UserError(f"there is no setting {name}: choose from {', '.join(options)}")
            parse, choices = options[name].get("type", str), options[name].get("choices")
            try:
                is_list = isinstance(value, (tuple, list))
                changes[name] = [parse(str(each)) for each in value] if is_list else parse(str(value))
            except argparse.ArgumentTypeError as error:
                raise UserError(f"{name}: {error}") from None
            if choices and value not in choices:
                raise UserError(f"{name} is {value!r}: choose from {', '.join(choices)}")
        return self.updated(changes)


@dataclass(frozen=True)
class TrainingRecipe(Recipe):
    """What decides the training of any net, besides its layers and the data."""

    hidden: tuple[int, ...] = setting((64, 64), integer(1), "units of each hidden layer", nargs="+", metavar="UNITS")
    seed: int = setting(0, integer(0, MAX_SEED), "random seed: decides first weights, order of the images, and noise")
    epochs: int = setting(150, integer(1), "passes over the training images")
    batch_size: int = setting(250, integer(1), "images per step", metavar="IMAGES")
    learning_rate: float = setting(5e-3, number(1e-12, 1e6), "peak learning rate of Adam", metavar="RATE")
    weight_decay: float = setting(
        0.0, number(0, 1e3), "each step subtracts DECAY x learning rate x weight from each weight", metavar="DECAY"
    )
    label_smoothing: float = setting(
        0.0, fraction, "share of a label's weight that is spread over all classes", metavar="SHARE"
    )
    translate: int = setting(1, integer(0), "shift each image by up to PIXELS pixels", metavar="PIXELS")
    distort: float = setting(
        0.0,
        number(0, 10),
        "instead of --translate: rotate (STRENGTH 1: by up to 10 degrees), scale (10 %%), shift and bend each image",
        metavar="STRENGTH",
    )
    select: float = setting(
        1.0,
        number(0.01, 1),
        "after 3 epochs, train on this share of the images only: the hardest, and some at random",
        metavar="SHARE",
    )
