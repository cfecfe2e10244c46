"""Recorded speech with what is said in it, in an order that is always the same.

Telephone prompts (8 kHz, professional speakers, some 500 a language) and sentences of a LibriVox
reading (16 kHz), from the packages of speech.json; a President (16 kHz) from samples.
Transcripts of prompts are informal: digits and abbreviations are in them, and in Italian a "?"
where an accented letter was. Error rates against them are upper bounds.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from tests.support.real.data import REPOSITORY, speech_folder
from whisper_npu import load_audio

RATE = 16000  # Hz, of all samples
PAUSE = 0.5  # seconds between recordings that are joined
PACK = 27.0  # seconds that a pack has at most: it is one window
VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
LANGUAGES = tuple(VOICES)
# What is no speech: "[ascending tones]", "<beep>", "(beep)".
_SOUND = re.compile(r".*\[|[<(].*[>)]$")
_LIBRIVOX_LINE = re.compile(r"<s> (.*) </s> \((.*)\)")


@dataclass(frozen=True)
class Recording:
    """One or more files of speech, with ``PAUSE`` between them.

    ``language`` is a code, or codes joined with "+"; ``text`` is what is said in all of them;
    ``seconds`` is their length, pauses between them included.
    """

    name: str
    language: str
    text: str
    files: tuple[Path, ...]
    seconds: float

    def samples(self) -> np.ndarray:
        """float32 [n] at ``RATE``, as the product decodes and resamples the files."""
        pause = np.zeros(round(PAUSE * RATE), np.float32)
        pieces = [piece for file in self.files for piece in (pause, load_audio(str(file)))]
        return np.concatenate(pieces[1:])


def joined(name: str, recordings: Iterable[Recording]) -> Recording:
    """Recordings one after the other."""
    parts = list(recordings)
    return Recording(
        name,
        "+".join(dict.fromkeys(part.language for part in parts)),
        " ".join(part.text for part in parts),
        tuple(file for part in parts for file in part.files),
        sum(part.seconds for part in parts) + PAUSE * (len(parts) - 1),
    )


@cache
def prompts(language: str) -> tuple[Recording, ...]:
    """All prompts of one of ``LANGUAGES`` in which something is said, named "en/agent-pass"."""
    share = speech_folder() / "usr" / "share"
    sounds = share / "asterisk" / "sounds" / VOICES[language]
    texts = share / "doc" / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    found: dict[str, Recording] = {}
    for line in gzip.decompress(texts.read_bytes()).decode("utf-8-sig").splitlines():
        name, _, text = (part.strip() for part in line.partition(":"))
        file = sounds / f"{name}.wav"
        if line.startswith(";") or not text or _SOUND.match(text) or not file.is_file():
            continue
        found.setdefault(name, _recording(f"{language}/{name}", language, text, file))
    return tuple(found.values())


@cache
def sentences() -> tuple[Recording, ...]:
    """Five sentences of a LibriVox reading, named "librivox/0870"."""
    folder = speech_folder() / "usr/share/pocketsphinx/test/data/librivox"
    found = []
    for line in (folder / "transcription").read_text(encoding="utf-8").splitlines():
        match = _LIBRIVOX_LINE.fullmatch(line.strip())
        assert match, line
        text, name = match.groups()
        found.append(_recording(f"librivox/{name[-4:]}", "en", text, folder / f"{name}.wav"))
    return tuple(found)


def president() -> Recording:
    """Eleven seconds of an inaugural address."""
    text = (
        "And so my fellow Americans, ask not what your country can do for you, "
        "ask what you can do for your country."
    )
    return _recording("jfk", "en", text, REPOSITORY / "samples" / "jfk.flac")


def sound(name: str) -> Path:
    """A file of the English prompts in which nothing is said, such as "tt-monkeys"."""
    return speech_folder() / "usr/share/asterisk/sounds" / VOICES["en"] / f"{name}.wav"


def packs(language: str) -> tuple[Recording, ...]:
    """The prompts of a language joined to recordings of at most ``PACK`` seconds, in their order.

    A prompt that is longer is left out.
    """
    return tuple(
        joined(f"{language}/pack {i}", pack) for i, pack in enumerate(_packed(prompts(language)))
    )


def _packed(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    pack: list[Recording] = []
    seconds = 0.0
    for recording in recordings:
        if recording.seconds > PACK:
            continue
        if pack and seconds + PAUSE + recording.seconds > PACK:
            yield pack
            pack, seconds = [], 0.0
        seconds += recording.seconds + (PAUSE if pack else 0)
        pack.append(recording)
    if pack:
        yield pack


def minutes(language: str, count: float) -> Recording:
    """The first prompts of a language, as many as fit into ``count`` minutes."""
    chosen: list[Recording] = []
    seconds = 0.0
    for prompt in prompts(language):
        seconds += prompt.seconds + (PAUSE if chosen else 0)
        if seconds > 60 * count:
            break
        chosen.append(prompt)
    return joined(f"{language}, {count:g} minutes", chosen)


def _recording(name: str, language: str, text: str, file: Path) -> Recording:
    return Recording(name, language, text, (file,), soundfile.info(file).duration)
