"""Markdown tables from the records of the studies, filled into the documents.

A document holds `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is replaced by the text of that
name.
"""

import re
from pathlib import Path
from statistics import mean, stdev

from support import files

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "studies").glob("*.md"))]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(header, rows):
    """A Markdown table with aligned columns. header: a list of strings; rows: an iterable of such lists."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(f'{cell:<{width}}' for cell, width in zip(line, widths))} |" for line in lines)


def spread(errors):
    """'75.6 ± 3.6': mean and standard deviation of error counts; of one run the count."""
    return f"{mean(errors):,.1f} ± {stdev(errors):.1f}" if len(errors) > 1 else f"{errors[0]:,}"


def each(errors):
    """'81, 76, 75': one count after the other."""
    return ", ".join(f"{number:,}" for number in errors)


def spread_and_each(errors):
    """'77.3 ± 3.2 (81, 76, 75)'; of one run the count."""
    return spread(errors) + (f" ({each(errors)})" if len(errors) > 1 else "")


def filled(document, texts):
    """The text of a document (str) with these texts, {name: Markdown}, in their places."""
    return BLOCK.sub(lambda m: f"{m[1]}{texts[m[2]]}\n{m[3]}" if m[2] in texts else m[0], document)


def fill(texts):
    """Write these texts, {name: Markdown}, into the documents that have a place for them."""
    for path in DOCUMENTS:
        old = path.read_text(encoding="utf-8")
        new = filled(old, texts)
        if new != old:
            with files.atomic_write(path) as scratch:
                scratch.write_text(new, encoding="utf-8")
            print(f"updated {path.relative_to(ROOT)}")
