"""What a device does in a second, and how long a count would take on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .counter import ATTENTION, CONVOLUTION, PRODUCT, Count

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Rates:
    """Rates of a device in one precision.

    Attributes:
        products, convolutions, attention: operations a second.
        memory: bytes a second.
        launch: seconds from one kernel to the next.
    """

    products: float
    convolutions: float
    attention: float
    memory: float
    launch: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rates:
        """What :meth:`to_dict` gave.

        Raises:
            ValueError: another file's values, or a rate that is not above 0.
        """
        try:
            rates = cls(*(float(values[field.name]) for field in fields(cls)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these are no rates ({error!r}); expected what flashvideo bench --json wrote.") from None
        if not all(rate > 0 for rate in asdict(rates).values()):
            raise ValueError(f"the rates are {rates}; expected numbers above 0.")
        return rates


@dataclass(frozen=True)
class Prediction:
    """Seconds by what takes them.

    Products, convolutions and attention take what their operations or their bytes take, whichever is more; all other
    kernels what their bytes take.
    """

    products: float
    convolutions: float
    attention: float
    other: float
    launches: float

    @property
    def total(self) -> float:
        return self.products + self.convolutions + self.attention + self.other + self.launches

    @property
    def limit(self) -> float:
        """What products, convolutions and attention take alone: no code around them makes it less."""
        return self.products + self.convolutions + self.attention


def predict(count: Count, rates: Rates) -> Prediction:
    """How long a count takes at these rates."""

    def busy(kind: str, rate: float) -> float:
        work = count.of(kind)
        return max(work.operations / rate, work.bytes / rates.memory)

    return Prediction(
        busy(PRODUCT, rates.products),
        busy(CONVOLUTION, rates.convolutions),
        busy(ATTENTION, rates.attention),
        count.besides(PRODUCT, CONVOLUTION, ATTENTION).bytes / rates.memory,
        count.total.launches * rates.launch,
    )


def _card(peak: float, memory: float, attention: float | None = None) -> Rates:
    """Of published peaks: bf16 without sparsity in TFLOP/s, memory in GB/s."""
    # What well-shaped kernels are taken to reach of them: cuBLAS, cuDNN, FlashAttention 2 with heads of 64, a copy.
    products, convolutions, kernel, copies = 0.7, 0.6, 0.6, 0.85
    attending = peak * kernel if attention is None else attention
    return Rates(peak * products * TERA, peak * convolutions * TERA, attending * TERA, memory * copies * GIGA, 2e-6)


CARDS: dict[str, Rates] = {  # peaks from NVIDIA's data sheets and architecture papers
    "H200": _card(989, 4800, attention=414),  # as measured with cuDNN's kernel
    "H100": _card(989, 3350, attention=414),
    "A100 80 GB": _card(312, 2039),
    "L40S": _card(362, 864),
    "RTX 5090": _card(209.5, 1792),
    "RTX 4090": _card(165.2, 1008),
    "RTX 3090": _card(71, 936),
}
