"""Which of the audio tracks of a file is decoded."""

from __future__ import annotations

import warnings
from typing import Any

from whisper_npu.errors import AudioError

# Tracks that a warning describes besides the one that is taken.
_NAMED = 5


def choose_track(container: Any, track: int | None, name: str) -> Any:
    """The stream of PyAV's ``container`` to decode: audio track ``track``, or the default one.

    Which is the default FFmpeg says (``av_find_best_stream``). If it was not asked for and there
    are several, a warning names them. Raises AudioError if there is no such track.
    """
    tracks = container.streams.audio
    if not tracks:
        raise AudioError(f"{name}: holds no audio; give a file with an audio track")
    check_track(track, len(tracks), name)
    chosen = container.streams.best("audio") or tracks[0] if track is None else tracks[track]
    if chosen.codec_context is None:
        raise AudioError(f"{name}: FFmpeg has no decoder for its audio; convert it first")
    if track is None and len(tracks) > 1:
        at = next(i for i, each in enumerate(tracks) if each.index == chosen.index)
        described = [f"{i}: {_described(t)}" for i, t in enumerate(tracks) if i != at]
        more = f" and {len(described) - _NAMED} more" if len(described) > _NAMED else ""
        others = f"{'; '.join(described[:_NAMED])}{more}"
        warnings.warn(
            f"{name}: holds {len(tracks)} audio tracks; the default one is taken, "
            f"{at}: {_described(chosen)}; audio_track chooses another ({others})",
            stacklevel=2,
        )
    return chosen


def check_track(track: int | None, n_tracks: int, name: str) -> None:
    """Raise AudioError if there is no such track."""
    if track is not None and track >= n_tracks:
        tracks = "1 audio track" if n_tracks == 1 else f"{n_tracks} audio tracks"
        raise AudioError(
            f"{name}: holds {tracks}, numbered from 0; there is no audio_track {track}"
        )


def _described(stream: Any) -> str:
    context = stream.codec_context
    tags = [stream.metadata.get("language"), stream.metadata.get("title")]
    codec = ["unknown codec"]
    if context is not None:
        n = context.layout.nb_channels
        codec = [context.name, {1: "mono", 2: "stereo"}.get(n, context.layout.name)]
    return ", ".join([tag for tag in tags if tag and tag != "und"] + codec)
