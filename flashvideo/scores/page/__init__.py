"""One HTML page that shows videos in step, with their scores and a blind test: see ``docs/compare.md``."""

from .clips import Entry
from .writing import EMBED_UP_TO, write_page

__all__ = ["EMBED_UP_TO", "Entry", "write_page"]
