"""The options of the transcribe command: what the transcriber gets, and what is refused."""

from __future__ import annotations

import os
import sys
from typing import Any, ClassVar

import pytest

from tests.cli.fake import FakeTranscriber
from whisper_npu.cli import main
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.errors import OptionError


def usage_error(*arguments: str) -> int | None:
    try:
        return main(["transcribe", "--model=fake", "a.wav", *arguments])
    except SystemExit as error:
        return error.code  # type: ignore[return-value]


class TestOptions:
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "task": "transcribe",
        "language": None,
        "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        "best_of": 5,
        "beam_size": 5,
        "patience": None,
        "length_penalty": None,
        "suppress_tokens": "-1",
        "seed": 0,
        "initial_prompt": None,
        "carry_initial_prompt": False,
        "condition_on_previous_text": True,
        "compression_ratio_threshold": 2.4,
        "logprob_threshold": -1.0,
        "no_speech_threshold": 0.6,
        "clip_timestamps": "0",
        "batch_size": None,
        "word_timestamps": False,
        "prepend_punctuations": "\"'“¿([{-",
        "append_punctuations": "\"'.。,，!！?？:：”)]}、",
        "hallucination_silence_threshold": None,
    }

    def options(self, fake: FakeTranscriber, *arguments: str) -> dict[str, Any]:
        assert main(["transcribe", "--model=fake", "a.wav", *arguments]) == 0
        ((_, options),) = fake.calls
        return {name: getattr(options, name) for name in self.DEFAULTS}

    def test_defaults(self, fake: FakeTranscriber) -> None:
        options = self.options(fake)
        assert options.pop("temperature") == pytest.approx(self.DEFAULTS["temperature"])
        assert options == {k: v for k, v in self.DEFAULTS.items() if k != "temperature"}

    def test_every_option_is_one_of_the_transcriber(self, fake: FakeTranscriber) -> None:
        TranscribeOptions.from_keywords(**self.options(fake))

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("task", "translate", "translate"),
            ("language", "Welsh", "Welsh"),
            ("best_of", "3", 3),
            ("best_of", "None", None),
            ("beam_size", "None", None),
            ("beam_size", "2", 2),
            ("patience", "1.5", 1.5),
            ("length_penalty", "0.5", 0.5),
            ("suppress_tokens", "", ""),
            ("suppress_tokens", "1,2", "1,2"),
            ("seed", "7", 7),
            ("initial_prompt", "one two", "one two"),
            ("carry_initial_prompt", "True", True),
            ("condition_on_previous_text", "False", False),
            ("compression_ratio_threshold", "None", None),
            ("logprob_threshold", "-0.5", -0.5),
            ("no_speech_threshold", "None", None),
            ("clip_timestamps", "1,2,3", "1,2,3"),
            ("batch_size", "None", None),
            ("word_timestamps", "True", True),
            ("prepend_punctuations", "(", "("),
            ("append_punctuations", ")", ")"),
        ],
    )
    @pytest.mark.parametrize("dashes", [False, True])
    def test_values(
        self, fake: FakeTranscriber, name: str, text: str, value: object, dashes: bool
    ) -> None:
        option = "--" + (name.replace("_", "-") if dashes else name)
        joined = dashes and text != ""
        options = self.options(fake, *([f"{option}={text}"] if joined else [option, text]))
        assert options[name] == value
        others = set(options) - {name, "temperature"}
        assert {k: options[k] for k in others} == {k: self.DEFAULTS[k] for k in others}

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--temperature", "0.4"], [0.4, 0.6, 0.8, 1.0]),
            (["--temperature-increment-on-fallback", "0.5"], [0, 0.5, 1.0]),
            (["--temperature_increment_on_fallback", "None"], [0]),
            (["--temperature", "1"], [1]),
        ],
    )
    def test_temperatures(
        self, fake: FakeTranscriber, arguments: list[str], expected: list[float]
    ) -> None:
        assert self.options(fake, *arguments)["temperature"] == pytest.approx(expected)

    @pytest.mark.parametrize("given", [[], ["--condition_on_previous_text", "False"]])
    def test_batches_have_no_previous_text(self, fake: FakeTranscriber, given: list[str]) -> None:
        options = self.options(fake, "--batch-size", "8", *given)
        assert (options["batch_size"], options["condition_on_previous_text"]) == (8, False)
        TranscribeOptions.from_keywords(**options)

    def test_hallucination_silence_threshold(self, fake: FakeTranscriber) -> None:
        arguments = ["--word_timestamps", "True", "--hallucination_silence_threshold", "2"]
        assert self.options(fake, *arguments)["hallucination_silence_threshold"] == 2

    @pytest.mark.reference
    def test_openai_whisper_has_the_same(
        self, fake: FakeTranscriber, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its command line, run up to the call of its ``transcribe``, with its own defaults."""
        whisper = pytest.importorskip("whisper")
        module = sys.modules["whisper.transcribe"]
        called: dict[str, Any] = {}
        monkeypatch.setattr(whisper, "load_model", lambda *_, **__: None)
        monkeypatch.setattr(module, "transcribe", lambda *_, **options: called.update(options))
        monkeypatch.setattr(sys, "argv", ["whisper", "a.wav"])
        module.cli()
        mine = self.options(fake)
        assert called.pop("temperature") == pytest.approx(mine.pop("temperature"))
        assert called.pop("verbose") is True
        assert called.pop("fp16") is True
        assert mine.pop("seed") == 0
        assert mine.pop("batch_size") is None
        assert mine == called


class TestUsage:
    """Exit code 2, the name of the option, and nothing loaded or written."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--beam_sise", "5"], "unrecognized arguments: --beam_sise"),
            (["--task", "sing"], "argument --task: invalid choice: 'sing'"),
            (["--output_format", "doc"], "argument --output_format/-f: invalid choice: 'doc'"),
            (["--verbose", "yes"], "argument --verbose: must be True or False, not 'yes'"),
            (["--beam_size", "few"], "argument --beam_size: invalid"),
            (["--temperature", "warm"], "argument --temperature: invalid float value: 'warm'"),
            (["--threads", "-1"], "argument --threads: must be a whole number, 0 or more"),
            (["--max_line_width", "1.5"], "argument --max_line_width: must be a whole number"),
            (["--language", "klingon"], "error: --language: must be a code such as 'en'"),
            (["--beam_size", "0"], "error: --beam_size: must be from 1 to 1000, not 0"),
            (["--patience", "-1"], "error: --patience: must be above 0, not -1.0"),
            (["--length_penalty", "2"], "error: --length_penalty: must be between 0 and 1"),
            (["--temperature", "-1"], "error: --temperature: must be 0 or more, not -1.0"),
            (
                ["--temperature_increment_on_fallback", "0"],
                "error: --temperature_increment_on_fallback: must be 0.001 or more, or None",
            ),
            (["--suppress_tokens", "a"], "error: --suppress_tokens: must be token ids, or -1"),
            (["--clip_timestamps", "5,2"], "error: --clip_timestamps: the clip 5,2 ends before"),
            (["--seed", "-1"], "error: --seed: must be an integer from 0"),
            (["--hallucination_silence_threshold", "2"], "needs word_timestamps"),
            (["--temperature", "1e300"], "error: --temperature: must be 0, or from 1e-30 to 1e+30"),
            (["--batch_size", "0"], "error: --batch_size: must be 1 or more, not 0"),
            (["--batch_size", "few"], "argument --batch_size: invalid"),
            (
                ["--batch_size", "8", "--condition_on_previous_text", "True"],
                "error: --batch_size: 8 and condition_on_previous_text True cannot be given",
            ),
            (["--highlight_words", "True"], "--highlight_words requires --word_timestamps True"),
            (["--max_line_width", "40"], "--max_line_width requires --word_timestamps True"),
            (["--max_line_count", "2"], "--max_line_count requires --word_timestamps True"),
            (["--max-words-per-line", "3"], "--max_words_per_line requires --word_timestamps True"),
            (["--device", "cuda"], "error: --device must be one of cpu, npu, auto, not 'cuda'"),
            (["--check_rate", "2"], "error: --check_rate must be between 0 and 1, not 2.0"),
            (["b/a.mp3"], "a.wav and b/a.mp3 would both be written to a.*; transcribe them one at"),
            (["a.wav"], "a.wav and a.wav would both be written to a.*"),
            (["-", "-"], "- and - would both be written to stdin.*"),
        ],
    )
    def test_bad_values(
        self,
        fake: FakeTranscriber,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        message: str,
    ) -> None:
        assert usage_error(*arguments) == 2
        assert message in capsys.readouterr().err
        assert fake.calls == []
        assert os.listdir() == []

    def test_an_option_that_the_model_refuses(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake.fails["a.wav"] = OptionError("language: the model has no 'cy'; it has en, de")
        assert main(["transcribe", "--model=fake", "a.wav", "b.wav", "--language", "cy"]) == 2
        assert capsys.readouterr().err == (
            "whisper-npu: error: language: the model has no 'cy'; it has en, de\n"
        )
        assert len(fake.calls) == 1

    def test_no_audio(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["transcribe"])
        assert caught.value.code == 2
        assert "audio" in capsys.readouterr().err

    def test_no_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main([])
        assert caught.value.code == 2
        assert "COMMAND" in capsys.readouterr().err

    def test_files_that_look_like_options(self, fake: FakeTranscriber) -> None:
        assert main(["transcribe", "--model=fake", "--seed", "1", "--", "--a-b.wav"]) == 0
        assert fake.calls[0][0] == "--a-b.wav"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--fp16", "True"], "--fp16 has no effect: everything is computed in float32"),
            (["--fp16", "False"], "--fp16 has no effect: everything is computed in float32"),
            (
                ["--word_timestamps", "True", "--max_line_count", "2"],
                "--max_line_count has no effect without --max_line_width",
            ),
            (
                ["--word-timestamps=True", "--max-line-width=9", "--max-words-per-line=2"],
                "--max_words_per_line has no effect with --max_line_width",
            ),
        ],
    )
    def test_what_has_no_effect_is_said(
        self,
        fake: FakeTranscriber,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        message: str,
    ) -> None:
        assert main(["transcribe", "--model=fake", "a.wav", *arguments]) == 0
        assert capsys.readouterr().err == f"whisper-npu: warning: {message}\n"
        assert main(["transcribe", "--model=fake", "a.wav", "--quiet", *arguments]) == 0
        assert capsys.readouterr().err == ""
