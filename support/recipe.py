"""Settings: each is declared once, with its type, default, range and help. Options, saved settings and studies derive
from it.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass, field, fields

MAX_SEED = 2**32 - 1


def integer(least, most=10**6):
    """An argparse type: a whole number from `least` to `most`."""
    return _between(int, "a whole number", least, most)


def number(least, most):
    """An argparse type: a number from `least` to `most`."""
    return _between(float, "a number", least, most)


def _between(kind, called, least, most):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {called}") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:.10g}")
        return value

    return parse


fraction, factor, any_temperature = number(0, 1), number(1e-6, 1e6), number(1e-3, 1e6)


def dropout_rate(text):
    """An argparse type: a number from 0 to below 1."""
    if fraction(text) == 1:
        raise argparse.ArgumentTypeError("1 would drop everything: it must be below 1")
    return float(text)


def setting(default, parse, help, **options):
    """A field of a Recipe. parse: an argparse type, or a list of choices; options: others of argparse's
    add_argument.
    """
    kind = {"choices": parse} if isinstance(parse, list) else {"type": parse}
    return field(default=default, metadata=kind | {"help": help} | options)


@dataclass(frozen=True)
class Recipe:
    """Settings that belong together. An instance is a set of values; `dataclasses.replace` gives another one."""

    def settings(self):
        """The values as JSON gives them back: a dict, with lists for tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def of(cls, values):
        """The recipe with these values, a dict: saved settings, or parsed options. What it lacks has its default, the
        rest is ignored.
        """
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})

    def only(self, *names):
        """The values of these names, a dict, to be passed on as arguments."""
        return {name: getattr(self, name) for name in names}


DISTORT_HELP = (
    "in place of --translate: rotate (STRENGTH 1: up to 10 degrees), scale (10 %%), shift and bend each image"
)


@dataclass(frozen=True)
class Training(Recipe):
    """What decides the training of any net, besides the data."""

    hidden: tuple[int, ...] = setting((64, 64), integer(1), "units of each hidden layer", nargs="+", metavar="UNITS")
    seed: int = setting(0, integer(0, MAX_SEED), "decides first weights, order of the images, and noise")
    epochs: int = setting(150, integer(1), "passes over the training images")
    batch_size: int = setting(250, integer(1), "images in a step", metavar="IMAGES")
    learning_rate: float = setting(5e-3, number(1e-12, 1e6), "peak learning rate of Adam", metavar="RATE")
    translate: int = setting(1, integer(0), "shift each image by up to so many pixels", metavar="PIXELS")
    distort: float = setting(0.0, number(0, 10), DISTORT_HELP, metavar="STRENGTH")


def changed(base, name, default):
    """The field of another Recipe with another default."""
    (found,) = (each for each in fields(base) if each.name == name)
    return dataclasses.field(default=default, metadata=found.metadata)
