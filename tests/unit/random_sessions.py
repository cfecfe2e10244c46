"""Windows that are decoded in sessions which join, leave some behind and are reordered at random.

What each window says is drawn beforehand, so that it can be decoded alone as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from whisper_npu.ops.fixed import FRACTION
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.session import DecoderSession

STEPS = 9


class Story(NamedTuple):
    """A prompt, and for every step the order of the sequences and then their tokens."""

    states: np.ndarray  # [ctx, d]
    prompt: np.ndarray  # [n]
    orders: np.ndarray  # [STEPS, group]
    tokens: np.ndarray  # [STEPS, group]


def random_states(model: Model, random: np.random.RandomState, n: int) -> np.ndarray:
    """States of ``n`` windows that no encoder made."""
    dims = model.dims
    states = random.standard_normal((n, dims.n_audio_ctx, dims.n_audio_state))
    if model.precision == "float32":
        return states.astype(np.float32)
    return np.rint(states * 2.0**FRACTION).astype(np.int32)


def random_stories(model: Model, random: np.random.RandomState, n: int, group: int) -> list[Story]:
    """Of prompts of two lengths, one after the other."""
    n_vocab = model.dims.n_vocab
    return [
        Story(
            states,
            random.randint(0, n_vocab, 2 + 3 * (i % 2)),
            random.randint(0, group, (STEPS, group)),
            random.randint(0, n_vocab, (STEPS, group)),
        )
        for i, states in enumerate(random_states(model, random, n))
    ]


def tell_alone(model: Model, story: Story) -> list[np.ndarray]:
    """The logits after the prompt and after every step, [1, n_vocab] and [group, n_vocab]."""
    session = model.decoder([story.states.copy()], story.orders.shape[1])
    found = [session.prefill(story.prompt[None], [len(story.prompt) - 1])[0].copy()]
    for order, tokens in zip(story.orders, story.tokens, strict=True):
        session.reorder(order)
        found.append(session.step(tokens).copy())
    return found


class Together:
    """Tells stories in several sessions at once; ``found`` is what ``tell_alone`` gives of each,
    of some that were left behind only the beginning."""

    def __init__(self, model: Model, stories: list[Story], random: np.random.RandomState) -> None:
        self._model, self._stories, self._random = model, stories, random
        self.found: list[list[np.ndarray]] = [[] for _ in stories]
        self._waiting = list(range(len(stories)))
        # Sessions, and the stories of their windows.
        self._told: list[tuple[DecoderSession, list[int]]] = []
        #: How many steps were of windows at several positions, and whose slots were not in order.
        self.mixed = self.out_of_order = 0

    def run(self) -> None:
        """Until all have been told."""
        while self._waiting or self._told:
            action = self._random.randint(6)
            if self._waiting and (action == 0 or not self._told):
                self._begin()
            elif action == 1 and len(self._told) > 1:
                self._join()
            elif action == 2:
                self._keep(0.15)
            else:
                self._step()

    def _begin(self) -> None:
        """Those that come next, as long as their prompts are."""
        length = len(self._stories[self._waiting[0]].prompt)
        alike = [i for i in self._waiting if len(self._stories[i].prompt) == length]
        chosen = alike[: self._random.randint(1, 4)]
        self._waiting = [i for i in self._waiting if i not in chosen]
        stories = [self._stories[i] for i in chosen]
        group = stories[0].orders.shape[1]
        session = self._model.decoder([story.states for story in stories], group)
        logits = session.prefill(np.array([story.prompt for story in stories]), [length - 1])
        for i, row in zip(chosen, logits, strict=True):
            self.found[i].append(row.copy())
        self._told.append((session, chosen))

    def _join(self) -> None:
        first, second = self._random.permutation(len(self._told))[:2].tolist()
        (session, chosen), (other, others) = self._told[first], self._told[second]
        session.join(other)
        self._told[first] = session, chosen + others
        del self._told[second]

    def _keep(self, left_behind: float) -> None:
        """Some windows of a session that have not been told, in any order."""
        index = self._random.randint(len(self._told))
        session, chosen = self._told.pop(index)
        going_on = [
            place
            for place in self._random.permutation(len(chosen)).tolist()
            if len(self.found[chosen[place]]) <= STEPS and self._random.rand() >= left_behind
        ]
        if going_on:
            session.keep(np.array(going_on))
            self._told.append((session, [chosen[place] for place in going_on]))

    def _step(self) -> None:
        index = self._random.randint(len(self._told))
        session, chosen = self._told[index]
        if any(len(self.found[i]) > STEPS for i in chosen):
            self._keep(0.0)
            return
        group, done = session.group, [len(self.found[i]) - 1 for i in chosen]
        self.mixed += len(set(session.positions.tolist())) > 1
        self.out_of_order += sorted(session._slots) != list(session._slots)
        orders = [
            group * place + self._stories[i].orders[at]
            for place, (i, at) in enumerate(zip(chosen, done, strict=True))
        ]
        session.reorder(np.concatenate(orders))
        tokens = [self._stories[i].tokens[at] for i, at in zip(chosen, done, strict=True)]
        logits = session.step(np.concatenate(tokens)).copy()
        for place, i in enumerate(chosen):
            self.found[i].append(logits[group * place : group * (place + 1)])


def check_together(
    model: Model, other: Model, random: np.random.RandomState, group: int, tolerance: float
) -> None:
    """Stories that ``model`` tells together are those that ``other`` tells one by one."""
    for _ in range(3):
        stories = random_stories(model, random, 12, group)
        together = Together(model, stories, random)
        together.run()
        assert together.mixed > 3
        assert together.out_of_order > 3
        assert sum(len(found) > STEPS for found in together.found) > 3
        for story, found in zip(stories, together.found, strict=True):
            expected = tell_alone(other, story)
            for mine, alone in zip(found, expected, strict=False):
                np.testing.assert_allclose(mine, alone, rtol=0, atol=tolerance)
