"""Transcripts as srt, vtt, rttm, txt, json and csv; what is read back: rttm and info.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cluster.formats.csv_ import to_csv
from cluster.formats.json_ import to_json
from cluster.formats.model import Transcript
from cluster.formats.rttm import to_rttm
from cluster.formats.srt import to_srt
from cluster.formats.txt import to_txt
from cluster.formats.vtt import to_vtt

FORMATS: Mapping[str, Callable[[Transcript], str]] = MappingProxyType(
    {"srt": to_srt, "vtt": to_vtt, "rttm": to_rttm, "txt": to_txt, "json": to_json, "csv": to_csv}
)

__all__ = ["FORMATS", "Transcript", "to_csv", "to_json", "to_rttm", "to_srt", "to_txt", "to_vtt"]
