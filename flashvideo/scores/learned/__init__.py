"""Measures that others trained or fitted, by their own packages: used where those and their weights are here.

Nothing is downloaded, whatever a package would do: files are looked for where it looks for them, and while it works, it
finds no network.
"""

from .kinds import KINDS, Kind, Meter
from .loading import Learned, load_learned
from .measure import LearnedMeasure
from .pictures import FRAMES
from .weights import Weights

__all__ = ["FRAMES", "KINDS", "Kind", "Learned", "LearnedMeasure", "Meter", "Weights", "load_learned"]
