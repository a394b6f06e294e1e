"""Sound cut from the sources: each asset decoded once, as ingest decodes it, from the content that is registered."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.lanes import node_cache
from cluster.db.transcripts import Named, readable_sources
from cluster.media.inputs import first_present
from cluster.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound of one asset: int16 of shape (samples,), mono, 16 kHz."""

    samples: NDArray[np.int16]

    def write(self, path: Path, start_ms: int, end_ms: int) -> None:
        """Write the time as WAV; `OSError` when it lies after the end of the sound."""
        part = self.samples[start_ms * RATE_HZ // 1000 : end_ms * RATE_HZ // 1000]
        if not len(part):
            raise OSError(f"the sound ends at {len(self.samples) / RATE_HZ:.3f} s, before it")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(part.astype("<i2").tobytes())


class Clips:
    """Decodes assets one after the other in a child process of its own."""

    def __init__(self, settings: Settings) -> None:
        from actors.decode import Decode

        self._stage = Decode(
            settings.decode_base_s, settings.decode_s_per_hour, settings.decode_memory_bytes, node_cache(settings)
        )

    def decode(self, conn: Any, named: Named) -> Sound:
        """The sound of the asset; `RushesError` when no source is there, and what `Decode.process` raises."""
        import pyarrow as pa

        table = pa.Table.from_pylist([first_present(readable_sources(conn, named.asset_id))])
        sound = self._stage.process(table).column("audio").chunk(0)
        return Sound(sound.values.to_numpy()[sound.offsets[0].as_py() : sound.offsets[1].as_py()])

    def close(self) -> None:
        """End the child."""
        self._stage.close()
