"""Rules that forbid tokens, on logits small enough to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import (
    dimensions,
    read_tokenizer,
    small_tokenizer,
    tokenizer_json,
)
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.decoding.rules import (
    SuppressBlank,
    SuppressTokens,
    TimestampRules,
    logit_rules,
    suppressed_tokens,
)
from whisper_npu.errors import OptionError
from whisper_npu.ops.probabilities import FLOATS, INTEGERS, Probabilities

# Text is 0 to 3, the end of text 4, <|notimestamps|> 5, timestamps 6 to 11.
EOT, NO_TIMESTAMPS, BEGIN, N_VOCAB = 4, 5, 6, 12


def allowed(rule: Any, sampled: list[list[int]], logits: Any = None) -> list[list[int]]:
    """Tokens that a rule leaves, for each sequence."""
    values = np.zeros((len(sampled), N_VOCAB), np.float32)
    if logits is not None:
        values[:] = logits
    rule(values, np.array(sampled, np.int64).reshape(len(sampled), -1))
    return [np.flatnonzero(row > -np.inf).tolist() for row in values]


def timestamp_rules(
    max_initial: int | None = None, probabilities: Probabilities = FLOATS
) -> TimestampRules:
    return TimestampRules(EOT, NO_TIMESTAMPS, BEGIN, max_initial, probabilities.outweigh)


# Logits at which text is likelier than all timestamps together.
TEXT = [9.0] * 5 + [0.0] * 7


def test_blank_is_only_suppressed_at_first() -> None:
    rule = SuppressBlank([0, EOT])
    assert allowed(rule, [[]]) == [[1, 2, 3, 5, 6, 7, 8, 9, 10, 11]]
    assert allowed(rule, [[1]]) == [list(range(N_VOCAB))]


def test_suppressed_tokens_are_never_allowed() -> None:
    assert allowed(SuppressTokens([2, 7]), [[], []]) == [[0, 1, 3, 4, 5, 6, 8, 9, 10, 11]] * 2


def test_a_timestamp_comes_first() -> None:
    assert allowed(timestamp_rules(), [[]], TEXT) == [[6, 7, 8, 9, 10, 11]]
    assert allowed(timestamp_rules(max_initial=2), [[]], TEXT) == [[6, 7, 8]]


def test_text_follows_the_first_timestamp() -> None:
    assert allowed(timestamp_rules(), [[6]], TEXT) == [[0, 1, 2, 3, 4]]


def test_timestamps_grow() -> None:
    # After <8> and text the next timestamp is above 8, so that the segment has a length.
    assert allowed(timestamp_rules(), [[8, 1]], TEXT) == [[0, 1, 2, 3, 4, 9, 10, 11]]


def test_a_closing_timestamp_is_followed_by_another_or_the_end() -> None:
    # The one that opens the next segment may be at the same time.
    assert allowed(timestamp_rules(), [[6, 1, 9]], TEXT) == [[4, 9, 10, 11]]
    assert allowed(timestamp_rules(), [[6, 1, 9, 9]], TEXT) == [[0, 1, 2, 3, 4]]


def test_sequences_do_not_affect_each_other() -> None:
    both = allowed(timestamp_rules(), [[6, 1, 9], [8, 1, 1]], TEXT)
    assert both == [[4, 9, 10, 11], [0, 1, 2, 3, 4, 9, 10, 11]]


BOTH = pytest.mark.parametrize("probabilities", [FLOATS, INTEGERS], ids=["floats", "integers"])


@BOTH
def test_timestamps_that_are_likelier_together_than_any_text_are_taken(
    probabilities: Probabilities,
) -> None:
    rules = timestamp_rules(probabilities=probabilities)
    # log(3 exp(1)) = 2.0986 is above 2.0984 and below 2.0988, for the three timestamps that may
    # follow.
    logits = [2.0] * 5 + [0.0] + [1.0] * 6
    logits[0] = 2.0984
    assert allowed(rules, [[8, 1]], logits) == [[9, 10, 11]]
    logits[0] = 2.0988
    assert allowed(rules, [[8, 1]], logits) == [[0, 1, 2, 3, 4, 9, 10, 11]]


@BOTH
def test_large_logits_do_not_overflow(probabilities: Probabilities) -> None:
    logits = [100.0] * 5 + [0.0] + [99.0] * 6
    with np.errstate(over="raise", invalid="raise"):
        rules = timestamp_rules(probabilities=probabilities)
        assert allowed(rules, [[8, 1]], logits) == [[9, 10, 11]]


def test_options_choose_the_rules() -> None:
    tokenizer, dims = small_tokenizer(), dimensions()
    blank, suppressed, timestamps = logit_rules(tokenizer, dims, DecodingOptions(), FLOATS)
    assert blank == SuppressBlank([*tokenizer.encode(" "), tokenizer.eot])
    assert isinstance(suppressed, SuppressTokens)
    assert timestamps == TimestampRules(
        tokenizer.eot, tokenizer.no_timestamps, tokenizer.timestamp_begin, 50, FLOATS.outweigh
    )
    bare = DecodingOptions(suppress_blank=False, suppress_tokens=None, without_timestamps=True)
    assert logit_rules(tokenizer, dims, bare, FLOATS) == []


@pytest.mark.parametrize(("seconds", "index"), [(0.5, 25), (None, None), (0, None)])
def test_the_first_timestamp_is_limited_in_seconds(seconds: Any, index: Any) -> None:
    options = DecodingOptions(max_initial_timestamp=seconds)
    *_, timestamps = logit_rules(small_tokenizer(), dimensions(), options, FLOATS)
    assert isinstance(timestamps, TimestampRules)
    assert timestamps.max_initial == index


def test_what_is_suppressed() -> None:
    tokenizer = small_tokenizer()
    control = {
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    }

    def suppressed(value: Any) -> set[int]:
        return set(suppressed_tokens(tokenizer, DecodingOptions(suppress_tokens=value)))

    assert suppressed("-1") == {*tokenizer.non_speech_tokens, *control}
    assert suppressed("-1,7") == {7, *tokenizer.non_speech_tokens, *control}
    assert suppressed([7, 8]) == {7, 8, *control}
    # As in openai-whisper nothing at all is suppressed then, not even the control tokens.
    assert suppressed("") == set()
    n_vocab = tokenizer.vocabulary.n_vocab
    with pytest.raises(OptionError, match=f"suppress_tokens: token {n_vocab} is not one of"):
        suppressed([n_vocab])


def test_ids_that_the_tokenizer_does_not_know_are_always_suppressed() -> None:
    n_vocab = small_tokenizer().vocabulary.n_vocab
    tokenizer = read_tokenizer(tokenizer_json(), n_vocab + 2)
    options = DecodingOptions(suppress_tokens="")
    assert suppressed_tokens(tokenizer, options) == [n_vocab, n_vocab + 1]


@BOTH
@pytest.mark.reference
def test_timestamp_rules_are_openais(probabilities: Probabilities) -> None:
    whisper = pytest.importorskip("whisper")
    torch = pytest.importorskip("torch")

    class Tokens:
        eot, no_timestamps, timestamp_begin = EOT, NO_TIMESTAMPS, BEGIN

    random = np.random.RandomState(0)
    for trial in range(600):
        n, t = random.randint(1, 4), random.randint(0, 6)
        max_initial = [None, 2][trial % 2]
        logits = (random.standard_normal((n, N_VOCAB)) * 2).astype(np.float32)
        logits[:, :5] += random.choice([0, 3])
        logits[:, random.randint(4)] = -np.inf
        sampled = random.randint(N_VOCAB, size=(n, t))
        prompt = random.randint(N_VOCAB, size=(n, 3))
        ours = logits.copy()
        timestamp_rules(max_initial, probabilities)(ours, sampled)
        theirs = torch.from_numpy(logits.copy())
        rule = whisper.decoding.ApplyTimestampRules(Tokens(), 3, max_initial)
        rule.apply(theirs, torch.from_numpy(np.concatenate([prompt, sampled], axis=1)))
        assert np.array_equal(ours, theirs.numpy()), (sampled, logits)
