"""What the world knows of a setting, beside the dataclass field that holds it: one place for all who ask or tell."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..checkpoints.files import name_list
from ..method.checks import check_text, shortened

_KEY = "setting"
_UNSET: Any = object()
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A field of a settings dataclass, described.

    Attributes:
        name, kind, default: the field's; ``kind`` is ``int``, ``float``, ``str`` or ``bool``.
        help: one or two sentences for the command line, the editor and the table of options.
        label: what messages call it.
        option: its name on the command line and in a models folder's ``settings.json``; "" if it has none. Two fields
            with one option are the sides of a size.
        low, high: bounds of the numbers that run, themselves included.
        above: bound of the numbers that run, itself not included.
        off: a value outside of bounds and choices that means "not at all".
        choices: the words that run, if not all.
        words: the same in words, where they cannot be listed.
        read: raises ValueError for a value that cannot run, where that takes more than the above.
        given: what a value becomes that is given on the command line, where it is not kept as it is; raises ValueError.
        reason: why the range is what it is, for messages.
        step: of the editor's widget.
        offered: least and greatest number of the editor's widget, where they are closer than the bounds.
        advanced: whether the editor hides it at first.
        of_input: whether a size may be given in terms of what is enlarged.
        of_models: whether a models folder's ``settings.json`` may give its default.
    """

    help: str
    name: str = ""
    kind: type = str
    default: Any = None
    label: str = ""
    option: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    off: Any = _UNSET
    choices: tuple[str, ...] = ()
    words: str = ""
    read: Callable[[Any], None] | None = None
    given: Callable[[Any], Any] | None = None
    reason: str = ""
    step: float | None = None
    offered: tuple[float, float] | None = None
    advanced: bool = False
    of_input: bool = False
    of_models: bool = True

    def check(self, value: Any, label: str = "") -> None:
        """Raise ValueError for a value that cannot run; ``label`` is what the message calls the setting instead."""
        if self.kind is str and isinstance(value, str):
            check_text(label or self.label, value)
        if not self._runs(value):
            reason = f" ({self.reason})" if self.reason else ""
            raise ValueError(f"{label or self.label} is {shortened(value)}; expected {self.expected}{reason}.")
        if self.read is not None:
            self.read(value)

    def _runs(self, value: Any) -> bool:
        if self.off is not _UNSET and value == self.off:
            return True
        if self.choices:
            return value in self.choices
        if self.kind in (str, bool):
            return isinstance(value, self.kind)
        if not is_number(value):
            return False
        number = int(value) if self.kind is int else float(value)  # whole numbers exactly
        return (
            number == value
            and (self.low is None or number >= self.low)
            and (self.above is None or number > self.above)
            and (self.high is None or number <= self.high)
        )

    def is_of_kind(self, value: Any) -> bool:
        """Whether ``value`` is a number, a word or a truth value as the setting's are, within its range or not."""
        if self.off is None and value is None:
            return True
        if self.kind in (str, bool):
            return isinstance(value, self.kind)
        return is_number(value) and (self.kind is float or int(value) == value)

    @property
    def range(self) -> str:
        """The values that run, in words; "" if all of its kind do."""
        if self.choices or self.words:
            words = self.words or ", ".join(self.choices)
        elif self.low is not None:
            words = f"{self.low} or more" if self.high is None else f"{self.low} to {self.high}"
        else:
            bounds = (("more than", self.above), ("at most", self.high))
            words = " and ".join(f"{which} {bound}" for which, bound in bounds if bound is not None)
        return words if self.off in (_UNSET, None) else f"{self.off} (off) or {words}"

    @property
    def expected(self) -> str:
        """The values that run, as messages say it."""
        if self.choices:
            return f"one of {self.range}" + (", or None" if self.off is None else "")
        kind = {int: "a whole number", float: "a number", str: "words", bool: "True or False"}[self.kind]
        return f"{kind}: {self.range}" if self.range else kind


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number that a float can hold."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def setting(default: Any, help: str, **more: Any) -> Any:
    """A field of a settings dataclass; ``more`` are attributes of :class:`Setting`."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(help, **more)})


def settings_of(kind: type) -> dict[str, Setting]:
    """The described fields of a settings dataclass, in order, by name."""
    hints, described = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        if (known := field.metadata.get(_KEY)) is not None:
            plain = (typing.get_args(hints[field.name]) or (hints[field.name],))[0]  # the str of ``str | None``
            label = known.label or field.name.replace("_", " ")
            described[field.name] = dataclasses.replace(
                known, name=field.name, kind=plain, default=field.default, label=label
            )
    return described


def check_fields(settings: Any) -> None:
    """Raise ValueError unless every described field has a value that runs."""
    for name, described in settings_of(type(settings)).items():
        described.check(getattr(settings, name))


def check_known(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ValueError for names that this program does not know: what they ask for, it would not do."""
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(
            f"{where} has {name_list(name[:80] for name in unknown)}, which this program does not know: a newer one "
            "wrote it. Update FlashVideo, or make it again with this one."
        )


def from_dict(kind: Callable[..., T], values: dict[str, Any], where: str) -> T:
    """A settings dataclass from a table. Fields that it lacks keep their defaults: they were invented later.

    Raises:
        ValueError: fields that this program does not know, values of another kind.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {shortened(values)}; expected a table of settings. It is damaged: make it again.")
    check_known(values, inspect.signature(kind).parameters, where)
    for name, described in settings_of(kind).items():  # type: ignore[arg-type]
        if name in values and not described.is_of_kind(values[name]):
            raise ValueError(
                f"{where} has {name} as {shortened(values[name])}; expected {described.expected}. It is damaged: make "
                "it again."
            )
    return kind(**values)
