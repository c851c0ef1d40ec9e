"""Settings: each declared once, with type, default, range and help; options and saved settings derive from that."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

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


def dropout_rate(text: str) -> float:
    """An argparse type: a number from 0 to below 1."""
    if fraction(text) == 1:
        raise argparse.ArgumentTypeError("1 would drop everything: it must be below 1")
    return float(text)


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

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The recipe with these values: saved settings, or the parsed options of a script.

        A missing value is the default; names that are not of this recipe are ignored.
        """
        known = {}
        for field in dataclasses.fields(cls):
            if field.name in values:
                value = values[field.name]
                known[field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**known)

    def only(self, *names: str) -> dict[str, Any]:
        """The values of these names, to be passed on as keyword arguments."""
        return {name: getattr(self, name) for name in names}


DISTORT_HELP = (
    "instead of --translate: rotate (STRENGTH 1: by up to 10 degrees), scale (10 %%), shift and bend each image"
)


@dataclass(frozen=True)
class Training(Recipe):
    """What decides the training of any net, besides the data."""

    hidden: tuple[int, ...] = setting((64, 64), integer(1), "units of each hidden layer", nargs="+", metavar="UNITS")
    seed: int = setting(0, integer(0, MAX_SEED), "random seed: decides first weights, order of the images, and noise")
    epochs: int = setting(150, integer(1), "passes over the training images")
    batch_size: int = setting(250, integer(1), "images per step", metavar="IMAGES")
    learning_rate: float = setting(5e-3, number(1e-12, 1e6), "peak learning rate of Adam", metavar="RATE")
    translate: int = setting(1, integer(0), "shift each image by up to PIXELS pixels", metavar="PIXELS")
    distort: float = setting(0.0, number(0, 10), DISTORT_HELP, metavar="STRENGTH")


def changed(base: type[Recipe], name: str, default: Any) -> Any:
    """The field `name` of another Recipe, with another default."""
    fields = {field.name: field for field in dataclasses.fields(base)}
    return dataclasses.field(default=default, metadata=fields[name].metadata)
