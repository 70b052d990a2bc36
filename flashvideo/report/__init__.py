"""What FlashVideo can do, in numbers: a report on held-out drawn clips, judged by their pixels."""

from .bench import Bench
from .floors import Floor, check_floors, floors_of
from .models import Extra, LoadedModels, NetworkSize, VideoModels
from .record import Weights, hash_weights
from .results import Picture, Result, Row, Table
from .run import SECTIONS, parse_sections, parts_of, run_report
from .settings import ReportSettings

__all__ = [
    "SECTIONS",
    "Bench",
    "Extra",
    "Floor",
    "LoadedModels",
    "NetworkSize",
    "Picture",
    "ReportSettings",
    "Result",
    "Row",
    "Table",
    "VideoModels",
    "Weights",
    "check_floors",
    "floors_of",
    "hash_weights",
    "parse_sections",
    "parts_of",
    "run_report",
]
