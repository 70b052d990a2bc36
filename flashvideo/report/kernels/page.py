"""Counts as tables: what a device is asked to do, how long cards would take, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .counter import ATTENTION, CONVOLUTION, KINDS, PRODUCT, Count
from .rates import CARDS, Rates, predict

_MOST = 12  # parts in a table


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, as wide in plain text as its cells."""
    widths = [max(len(row[index]) for row in (titles, *rows)) for index in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    yield line(titles)
    yield "|" + "|".join("-" * (width + 1) + (":" if index else "-") for index, width in enumerate(widths)) + "|"
    yield from map(line, rows)


def counts_table(counts: Mapping[str, Count]) -> Iterator[str]:
    """One line a case."""
    titles = (
        "",
        "launches",
        "products, PF",
        "convolutions, PF",
        "attention, PF",
        "their bytes, GB",
        "others' bytes, GB",
        "peak, GiB",
        "planes, GiB",
        "host reads",
    )
    kinds = (PRODUCT, CONVOLUTION, ATTENTION)
    yield from table(
        titles,
        [
            (
                name,
                f"{count.total.launches:,}",
                *(f"{count.of(kind).operations / 1e15:.3f}" for kind in kinds),
                f"{count.of(*kinds).bytes / 1e9:,.0f}",
                f"{count.besides(*kinds).bytes / 1e9:,.0f}",
                f"{count.peak_bytes / 2**30:.2f}",
                f"{count.stored_bytes / 2**30:.2f}",
                str(count.host_reads),
            )
            for name, count in counts.items()
        ],
    )


def parts_table(count: Count) -> Iterator[str]:
    """Where the bytes are: parts and kinds, largest first."""
    works = sorted(count.work.items(), key=lambda item: -item[1].bytes)[:_MOST]
    total = max(1, count.total.bytes)
    yield from table(
        ("part", "kernels", "launches", "GB", "share"),
        [
            (part, kind, f"{work.launches:,}", f"{work.bytes / 1e9:,.1f}", f"{work.bytes / total:.0%}")
            for (part, kind), work in works
        ],
    )


def cards_table(counts: Mapping[str, Count], cards: Mapping[str, Rates] = CARDS) -> Iterator[str]:
    """Predicted seconds, and what products, convolutions and attention take of them."""
    rows = []
    for card, rates in cards.items():
        predictions = [predict(count, rates) for count in counts.values()]
        rows.append((card, *(f"{one.total:.2f} ({one.limit:.2f})" for one in predictions)))
    yield from table(("", *counts), rows)


def comparison(before: Mapping[str, Count], after: Mapping[str, Count]) -> Iterator[str]:
    """Launches, bytes, peaks and host reads of the cases that both have.

    Raises:
        ValueError: they have none in common.
    """
    common = [name for name in before if name in after]
    if not common:
        raise ValueError(f"no case is in both: {', '.join(before)} and {', '.join(after)}.")
    rows = []
    for name in common:
        old, new = _measures(before[name]), _measures(after[name])
        for measure, value in new.items():
            if value or old[measure]:
                change = f"{value / old[measure]:.3f}" if old[measure] else "new"
                rows.append((name, measure, f"{old[measure]:,.4g}", f"{value:,.4g}", change))
    yield from table(("", "", "before", "after", "ratio"), rows)


def _measures(count: Count) -> dict[str, float]:
    return {
        "launches": count.total.launches,
        "GB": count.total.bytes / 1e9,
        **{f"{kind}, GB": count.of(kind).bytes / 1e9 for kind in KINDS},
        "peak, GiB": count.peak_bytes / 2**30,
        "host reads": count.host_reads,
    }
