"""Damage: of bytes, of JSON, of the containers of weights and videos. Everything is drawn from one generator."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

ODD_NUMBERS = [0, -1, 1, 2, 7, -0.0, 1e308, 1e-320, 2**31, 2**63, -(2**63), 2**64, 10**40, float("nan"), float("inf")]
ODD_TEXTS = ["", " ", "\0", "a" * 5000, "\ud800", "../../x", "~nobody/x", "NaN", "é😀", "{}", "1e400", "\u202e"]
ODD_VALUES: list[Any] = [None, True, False, *ODD_NUMBERS, *ODD_TEXTS, [], {}, [[]], [None], {"": None}, [1, [2, [3]]]]


def odd_value(draw: Random) -> Any:
    return copy.deepcopy(draw.choice(ODD_VALUES))


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# Bytes


def flip_bits(draw: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut_short(draw: Random, data: bytes) -> bytes:
    return data[: draw.choice((draw.randrange(len(data)), draw.randrange(min(len(data), 200))))]


def cut_out(draw: Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.choice((1, 4, 100, 4000)) :]


def repeat_part(draw: Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    stop = start + draw.choice((1, 8, 500))
    return data[:stop] + data[start:stop] * draw.choice((1, 3)) + data[stop:]


def odd_integer(draw: Random, data: bytes) -> bytes:
    """A length, an offset or a count that is none."""
    size = draw.choice((1, 2, 4, 8))
    value = draw.choice((0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1), len(data) % (1 << 8 * size)))
    start = draw.randrange(min(len(data), draw.choice((64, 2000, len(data)))))
    return data[:start] + value.to_bytes(size, draw.choice(("little", "big"))) + data[start + size :]


def zero_part(draw: Random, data: bytes) -> bytes:
    start, size = draw.randrange(len(data)), draw.choice((16, 512, 100_000))
    size = min(size, len(data) - start)
    return data[:start] + bytes(size) + data[start + size :]


def noise(draw: Random, data: bytes) -> bytes:
    """The right beginning, and then anything."""
    kept = draw.choice((0, 4, 8, 64))
    return data[:kept] + draw.randbytes(draw.choice((1, 100, 10_000)))


BYTES: tuple[Mutation, ...] = (flip_bits, cut_short, cut_out, repeat_part, odd_integer, zero_part, noise)


def bytes_mutated(draw: Random, data: bytes) -> bytes:
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(BYTES)(draw, data or b"\0")
    return data


# JSON


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to every value in a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, inner in items for place in places(inner, (*at, key)))]


def json_mutated(draw: Random, value: Any) -> Any:
    """A value with one to three of its values replaced, renamed, removed or added to."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        ways = [way for way in places(value) if way]
        if not ways:
            return odd_value(draw)
        *way, key = draw.choice(ways)
        holder = value
        for step in way:
            holder = holder[step]
        _change(draw, holder, key)
    return nested(draw.choice((50, 2000))) if draw.random() < 0.02 else value


def _change(draw: Random, holder: Any, key: Any) -> None:
    kind = draw.randrange(6)
    old = holder[key]
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice((str(key) + "_", "", "é", str(key).upper()))] = holder.pop(key)
    elif kind == 2 and isinstance(old, (int, float)):
        holder[key] = draw.choice((old + 1, old - 1, old * 2, -old, old * 10**9, str(old), [old]))
    elif kind == 3 and isinstance(old, list):
        holder[key] = draw.choice((old * 2, old[::-1], old[:-1], [*old, 1], old * 1000))
    else:
        holder[key] = odd_value(draw)


def written(value: Any) -> str:
    """JSON, also of what is nested too deep to be written by a recursion."""
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 100_000 + "]" * 100_000


def text_of(draw: Random, value: Any) -> bytes:
    """As a file: in the usual and in less usual encodings."""
    return written(value).encode(draw.choices(("utf-8", "utf-16", "utf-8-sig"), (18, 1, 1))[0], "surrogatepass")


# Containers


def safetensors_mutated(draw: Random, data: bytes) -> bytes:
    """The header's values, or any bytes."""
    if draw.random() < 0.35:
        return bytes_mutated(draw, data)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tables = header.get("__metadata__", {})
    inside = [key for key, text in tables.items() if text.startswith("{")]
    if inside and draw.random() < 0.6:
        key = draw.choice(inside)
        tables[key] = written(json_mutated(draw, json.loads(tables[key])))
    elif draw.random() < 0.3:
        names = [name for name in header if name != "__metadata__"]
        one, other = draw.choice(names), draw.choice(names)
        what = draw.choice(("shape", "dtype", "data_offsets"))
        header[one][what], header[other][what] = header[other][what], header[one][what]
    else:
        header = json_mutated(draw, header)
    text = written(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def zip_mutated(draw: Random, data: bytes) -> bytes:
    """One member of an archive, with a sum that is right again; or any bytes."""
    if draw.random() < 0.3:
        return bytes_mutated(draw, data)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(written, "w") as target:
        members = source.infolist()
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        victim = draw.choice(pickles if draw.random() < 0.7 else members).filename
        for member in members:
            content = source.read(member)
            if member.filename != victim:
                target.writestr(member.filename, content)
            elif draw.random() < 0.9:
                target.writestr(member.filename, bytes_mutated(draw, content))
    return written.getvalue()


def lines_mutated(draw: Random, data: bytes) -> bytes:
    """A text file: of lines left out, doubled, of odd values, of one bad byte."""
    if draw.random() < 0.15:
        return bytes_mutated(draw, data)
    lines = data.decode().splitlines()
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(lines))
        name, equals, _ = lines[at].partition("=")
        odd = odd_value(draw)
        options = [
            lines[at] * 2,
            "",
            f"{name}{equals} {written(odd)}",
            f"{name}{equals} {odd}",
            f"{name}_{equals} 1",
            f"{name}{equals} " + "[" * 3000,
            "[" + lines[at],
            lines[at] + str(draw.choice(ODD_TEXTS)),
        ]
        lines[at] = draw.choice(options)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def video_mutated(draw: Random, data: bytes) -> bytes:
    """Any bytes, or a size or a word in one of the boxes that describe the rest."""
    if draw.random() < 0.5:
        return bytes_mutated(draw, data)
    start = data.find(draw.choice((b"moov", b"trak", b"stsz", b"stts", b"stsd", b"mdhd", b"tkhd", b"elst", b"mdat")))
    at = max(0, start - 4) + draw.randrange(32)
    value = draw.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, draw.randrange(1 << 32)))
    return data[:at] + value.to_bytes(4, "big") + data[at + 4 :]
