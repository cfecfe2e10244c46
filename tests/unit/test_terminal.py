"""What is shown on a terminal: no control characters, no passwords."""

from __future__ import annotations

import time

import pytest

from whisper_npu.errors import ModelError
from whisper_npu.terminal import message, note, printable, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\r\n\t\0\x07", r"\x1b[2J\r\n\t\x00\x07"),
        ("\x7f\x80\x9b31m\x9f", r"\x7f\x80\x9b31m\x9f"),
        ("\u202eb\u2066c\u2029", r"\u202eb\u2066c\u2029"),
        # A byte of a name that is no UTF-8, as Python has it, and half a character.
        ("\udcff \ud800", r"\udcff \ud800"),
    ],
)
def test_what_controls_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    ["日本語　ë́", "می\u200cخواهم", "👩\u200d🔬", "a\xa0b", "\\x1b", "שלום\u200f", "\U0010ffff"],
)
def test_what_text_is_made_of_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x https://me:pa@ss/w@host/a?b: gone", "x https://***@host/a?b: gone"),
        ("'http://token@host'", "'http://***@host'"),
        ("(socks5://a:b@10.0.0.1:80)", "(socks5://***@10.0.0.1:80)"),
        ("https://host/a@b", "https://***@b"),
        ("https://host/x?a=1&X-Amz-Signature=abc&token=t", None),
        ("hf_" + "aB3" * 10 + " is", "*** is"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("HF_ENDPOINT, me@host.org and 3:4@5", "HF_ENDPOINT, me@host.org and 3:4@5"),
    ],
)
def test_secrets_of_texts_are_hidden(text: str, shown: str | None) -> None:
    hidden = "https://host/x?a=1&X-Amz-Signature=***&token=***"
    assert without_secrets(text) == (shown or hidden)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("HF_TOKEN", "secret-1", "'secret-1'"),
        ("https_proxy", "me:secret-1@host:3128", "Proxy me:secret-1@host"),
        ("HF_ENDPOINT", "https://me:secret%2D1@host", "user me, password secret-1"),
        ("PIP_INDEX_URL", "https://secret-1@host/simple", "netloc secret-1 of"),
    ],
)
def test_secrets_of_the_environment_are_hidden(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str
) -> None:
    assert "secret-1" in without_secrets(text)
    monkeypatch.setenv(name, value)
    assert "secret" not in without_secrets(text)
    assert "***" in without_secrets(text)


@pytest.mark.parametrize("piece", ["://", "?a=", "?", "&token", "@", "a"])
def test_a_long_text_is_gone_through_once(piece: str) -> None:
    text = piece * 300_000
    assert without_secrets(text) == text


def test_short_words_of_the_environment_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://a:b@host")
    assert without_secrets("a bad tub") == "a bad tub"


def test_errors_and_notes_are_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\nb\x1b: https://me:word@host"
    shown = r"a\nb\x1b: https://***@host"
    assert (str(ModelError(text)), message(text)) == (shown, shown)
    note(text)
    note(text, who="pip: ")
    assert capsys.readouterr().err == f"whisper-npu: {shown}\npip: {shown}\n"


def test_errors_are_never_longer_than_a_screen() -> None:
    secret = "https://me:password@host/" + "x" * 600
    error = ModelError(f"a.json: holds {secret}{'y' * 5_000_000}; remove it")
    start = time.process_time()
    text = str(error)
    assert time.process_time() - start < 0.5
    assert len(text) <= 1000
    assert text.startswith("a.json: holds https://***@host/xxx")
    assert " ... yyy" in text
    assert text.endswith("yyy; remove it")
    assert str(ModelError("x" * 1000)) == "x" * 1000
