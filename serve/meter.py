"""What the service counts and times: requests, queues, batches, errors."""

from __future__ import annotations


class Meter:
    """Counts and times; `render` is what `/metrics` answers."""

    def request(self, route: str, method: str, status: int, seconds: float, cause: str | None) -> None:
        """One request is over; `cause` is the error's code."""

    def render(self) -> tuple[bytes, str]:
        """The metrics of this process, and their content type."""
        return b"", "text/plain; version=0.0.4"
