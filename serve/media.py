"""Media for the routes: originals, cut clips, single frames, and uploads, each read in child processes."""

from __future__ import annotations

from cluster.settings import Settings


class MediaDesk:
    """Reads and cuts media of the corpus for many requests at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def close(self) -> None:
        """End the children."""
