"""Make one recording out of another film's pictures and another recording's sound."""

from __future__ import annotations

from pathlib import Path


def mux(film: Path, sound: Path, target: Path) -> Path:
    """Write `target`: the video stream of `film`, untouched, with `sound` under it as AAC."""
    import av
    from av.audio.resampler import AudioResampler

    with av.open(str(film)) as pictures, av.open(str(sound)) as voices, av.open(str(target), "w") as out:
        video_in = pictures.streams.video[0]
        video_out = out.add_stream_from_template(video_in)
        audio_out = out.add_stream("aac", rate=44_100)
        resampler = AudioResampler("fltp", "mono", 44_100)
        for frame in voices.decode(audio=0):
            for part in resampler.resample(frame):
                out.mux(audio_out.encode(part))
        out.mux(audio_out.encode(None))
        for packet in pictures.demux(video_in):
            if packet.dts is not None:
                packet.stream = video_out
                out.mux(packet)
    return target
