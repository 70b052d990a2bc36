"""``python -m flashvideo``."""

from .cli import main

raise SystemExit(main())
