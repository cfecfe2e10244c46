"""Windows that are decoded side by side: each step is one of all of them.

A window joins as soon as its prompt has run, and leaves as soon as it has ended; what it gives does
not depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from whisper_npu.decoding.protocols import Session
from whisper_npu.decoding.search import Logits
from whisper_npu.ops.arrays import F32, I64


class Decoding(Protocol):
    """One attempt at one window; ``whisper_npu.decoding.task.Decoding`` is one."""

    error: Exception | None

    @property
    def group(self) -> int: ...

    @property
    def prompt(self) -> I64: ...

    @property
    def rows(self) -> Sequence[int]: ...

    @property
    def choices(self) -> int: ...

    @property
    def tokens(self) -> I64: ...

    @property
    def ended(self) -> bool: ...

    def open(self, logits: F32) -> None: ...

    def forbid(self, logits: F32) -> None: ...

    def update(self, logits: Logits) -> I64 | None: ...


class Batch:
    """Windows with as many sequences each."""

    def __init__(self) -> None:
        #: Of the windows that are under way, in the order of the session's.
        self.decodings: list[Decoding] = []
        self._session: Session | None = None

    def begin(self, session: Session, decodings: Sequence[Decoding]) -> None:
        """Run the prompts of the windows of a session, which are of one length, and take them in.

        Those that end with their first token do not stay.
        """
        prompts = np.stack([decoding.prompt for decoding in decodings])
        opening = session.prefill(prompts, decodings[0].rows)
        for decoding, logits in zip(decodings, opening, strict=True):
            with _failing_alone(decoding):
                decoding.open(logits)
        kept = _advance(session, decodings, np.repeat(opening[:, -1], session.group, axis=0))
        if not kept:
            return
        self.decodings += kept
        if self._session is None:
            self._session = session
        else:
            self._session.join(session)

    def step(self) -> None:
        """One more token of every window; those that have ended leave."""
        assert self._session is not None
        tokens = np.concatenate([decoding.tokens for decoding in self.decodings])
        self._keep(_advance(self._session, self.decodings, self._session.step(tokens)))

    def leave(self, decodings: Sequence[Decoding]) -> None:
        """Go on without some windows."""
        staying = [each for each in self.decodings if each not in decodings]
        if self._session is not None and len(staying) < len(self.decodings):
            places = [self.decodings.index(each) for each in staying]
            if places:
                self._session.keep(np.array(places))
            self._keep(staying)

    def _keep(self, decodings: list[Decoding]) -> None:
        self.decodings = decodings
        if not decodings:
            # With it the caches of the last windows.
            self._session = None


@contextmanager
def _failing_alone(decoding: Decoding) -> Iterator[None]:
    """An error of one window is no other's."""
    try:
        yield
    except Exception as error:
        decoding.error = error


def _advance(
    session: Session, decodings: Sequence[Decoding], logits: F32
) -> list[Decoding]:  # [n_audio * group, n_vocab]
    """Take a step with the next logits. Returns the windows that go on, with which the session goes
    on too."""
    group = session.group
    parts = [slice(i * group, (i + 1) * group) for i in range(len(decodings))]
    for decoding, part in zip(decodings, parts, strict=True):
        with _failing_alone(decoding):
            decoding.forbid(logits[part])
    choices = max(decoding.choices for decoding in decodings)
    none = np.empty((len(logits), 0), np.int64), np.empty((len(logits), 0), np.float32)
    tokens, logprobs = session.likeliest(logits, choices) if choices else none
    sources, moved = np.arange(len(logits)), False
    for decoding, part in zip(decodings, parts, strict=True):
        source = None
        if decoding.error is None:
            with _failing_alone(decoding):
                source = decoding.update(Logits(logits[part], tokens[part], logprobs[part]))
        if source is not None and not decoding.ended:
            sources[part] = part.start + source
            moved = True
    kept = [i for i, decoding in enumerate(decodings) if not decoding.ended]
    if moved:
        session.reorder(sources)
    if 0 < len(kept) < len(decodings):
        session.keep(np.array(kept))
    return [decodings[i] for i in kept]
