"""How things are called where people read of them."""

from __future__ import annotations


def short_uri(uri: str) -> str:
    """The last two parts of a source, enough for a person to know it; an object's address ends at its query."""
    place = uri.partition("?")[0] if "://" in uri else uri
    return "/".join(place.rsplit("/", 2)[-2:])
