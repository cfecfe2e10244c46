"""A value of the residual stream that int8 cuts is told of, wherever it is computed."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.checkpoints import Recipe, checkpoint, write_weights
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.signals import noise
from whisper_npu import Transcriber
from whisper_npu.backends.cpu.backend import CpuBackend, usable_kernels
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.backends.numpy.specification import Specification
from whisper_npu.cli import main
from whisper_npu.model.hadamard import rotate
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.results import Saturation
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.usage import Usage, notice_of
from whisper_npu.runtime.workers import Workers, find_blas

RECIPE = Recipe("nano")
BACKENDS = ("specification", "fast NumPy", "CPU kernels")
ENCODER, DECODER = "model.encoder.layers", "model.decoder.layers"
# Where int32 ends.
LIMIT = 2.0**19
CUT = "values beyond +-524288 were cut (int8); the text may be wrong; use --precision float32"

Changes = Mapping[str, Array]


def push(share: float) -> Array:  # -> [d]
    """What adds so much of the limit to one component of the rotated stream."""
    wanted = np.zeros((1, RECIPE.dimensions().n_audio_state, 1))
    wanted[0, 5] = share * LIMIT
    # Of this width the rotation is its own inverse.
    rotate(wanted)
    return wanted.ravel().astype(np.float32)


def pushes(**shares: float) -> Changes:
    """Biases of the network by the names of the sums that they are added in."""
    places = {
        "encoder_0_attn": f"{ENCODER}.0.self_attn.out_proj.bias",
        "encoder_0": f"{ENCODER}.0.fc2.bias",
        "encoder_1_attn": f"{ENCODER}.1.self_attn.out_proj.bias",
        "states": f"{ENCODER}.1.fc2.bias",
        "decoder_0_cross": f"{DECODER}.0.encoder_attn.out_proj.bias",
        "decoder_1": f"{DECODER}.1.fc2.bias",
    }
    return {places[name]: push(share) for name, share in shares.items()}


def weights(changes: Changes) -> dict[str, Array]:
    return {**dict(RECIPE.weights()), **changes}


def model_of(changes: Changes, backend: str) -> Model:
    usage = Usage(precision="int8")
    if backend == "CPU kernels":
        usable = usable_kernels()
        assert not isinstance(usable, str), usable
        backends = CpuBackend(usable, usage), *numpy_backends()
    else:
        backends = numpy_backends() if backend == "fast NumPy" else (Specification(),)
    made = replace(checkpoint(RECIPE), weights=weights(changes))
    return Model(made, "int8", Machine(backends, usage=usage))


def run(model: Model) -> tuple[Array, list[tuple[str, str, int]]]:
    """Two windows together, a prompt and two tokens: the states, and what was told."""
    dims = model.dims
    rng = np.random.default_rng(0)
    states = model.encode(rng.standard_normal((2, dims.n_mels, dims.n_frames), np.float32))
    session = model.decoder(states)
    session.prefill([[1, 2, 3], [4, 5, 6]], [2])
    for token in (7, 8):
        session.step([token, token + 1])
    told = model.machine.usage.placement(model.machine.usage.counts).saturations
    return states, [(each.phase, each.op, each.runs) for each in told]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "CPU kernels":
        request.getfixturevalue("cpu_home")
    # A sum is shared out, and one thread alone has the value that is cut.
    team = Workers(3, find_blas())
    monkeypatch.setattr("whisper_npu.backends.numpy.fast.workers", lambda: team)
    monkeypatch.setattr("whisper_npu.backends.cpu.backend.kernel_threads", lambda: 3)
    return name


def test_an_ordinary_model_has_no_such_event(backend: str) -> None:
    _, told = run(model_of({}, backend))
    assert told == []


def test_values_near_the_limit_are_no_event(backend: str) -> None:
    states, told = run(model_of(pushes(encoder_0=0.5, states=0.45), backend))
    assert told == []
    assert np.abs(states).max() > 0.9 * LARGEST


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_is_cut(backend: str, sign: int) -> None:
    states, told = run(model_of(pushes(encoder_0=0.6 * sign, states=0.6 * sign), backend))
    assert told == [("encoder", "states", 1)]
    assert np.abs(states).max() == LARGEST


def test_what_a_later_sum_brings_back_was_cut_all_the_same(backend: str) -> None:
    changes = pushes(encoder_0_attn=0.6, encoder_0=0.6, encoder_1_attn=-0.6)
    states, told = run(model_of(changes, backend))
    # The second of them adds to what is at the limit.
    assert told == [("encoder", "encoder.0.residual", 1), ("encoder", "encoder.1.attn_residual", 1)]
    assert np.abs(states).max() < 0.5 * LARGEST


def test_sums_of_the_decoder(backend: str) -> None:
    _, told = run(model_of(pushes(decoder_0_cross=0.6, decoder_1=0.6), backend))
    assert told == [("prefill", "decoder.1.residual", 1), ("step", "decoder.1.residual", 2)]


def test_an_embedding_that_is_cut(backend: str) -> None:
    changes = {
        name: weights({})[name] + push(0.6)
        for name in ("model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight")
    }
    _, told = run(model_of(changes, backend))
    assert told[0] == ("prefill", "decoder.0.attn_residual", 1)
    assert ("step", "decoder.0.attn_residual", 2) in told


def test_a_product_that_is_cut_before_it_is_added(backend: str) -> None:
    name = f"{ENCODER}.0.fc2.weight"
    _, told = run(model_of({name: weights({})[name] * np.float32(1e9)}, backend))
    assert told[0] == ("encoder", "encoder.0.residual", 1)


@pytest.fixture
def directory(seeded_directory: Callable[[Recipe], Path], tmp_path: Path) -> Path:
    """A model whose encoder saturates."""
    folder = tmp_path / "saturating"
    shutil.copytree(seeded_directory(RECIPE), folder)
    changed = weights(pushes(encoder_0=0.6, states=0.6))
    write_weights(RECIPE.dimensions(), changed.items(), folder)
    return folder


GREEDY = {"language": "en", "temperature": 0.0, "sample_len": 5}


@pytest.mark.parametrize("kernels", [False, True])
def test_results_and_a_warning_for_each_recording(
    directory: Path, kernels: bool, request: pytest.FixtureRequest
) -> None:
    if kernels:
        request.getfixturevalue("cpu_home")
    transcriber = Transcriber(directory, precision="int8", cpu_kernels=kernels)
    for windows in (1, 2):
        stream = transcriber.segments(noise(16000 * (30 * windows - 5)), **GREEDY)
        with pytest.warns(UserWarning, match="^states: values") as caught:
            list(stream)
        assert [str(each.message) for each in caught] == [f"states: {CUT}"]
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert next(stream, None) is None
        placement = stream.result().placement
        assert placement is not None
        # The encoder has one such op.
        runs = sum(placement.ops["transpose"].values())
        assert placement.saturations == (Saturation("encoder", "states", runs),)


def test_no_warning_where_there_is_nothing_to_tell(
    seeded_directory: Callable[[Recipe], Path],
) -> None:
    transcriber = Transcriber(seeded_directory(RECIPE), precision="int8", cpu_kernels=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        placement = transcriber.transcribe(noise(16000), **GREEDY).placement
    assert placement is not None
    assert placement.saturations == ()


def test_the_command_tells_it_on_stderr_and_in_json(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = tmp_path / "a.wav"
    soundfile.write(audio, noise(16000), 16000)
    arguments = [f"--model={directory}", "--precision=int8", "--cpu_kernels=False", "-f=json"]
    arguments += [f"--output_dir={tmp_path}", "--language=en", "--temperature=0", str(audio)]
    assert main(["transcribe", *arguments]) == 0
    assert f"whisper-npu: warning: states: {CUT}\n" in capsys.readouterr().err
    (event,) = json.loads((tmp_path / "a.json").read_text())["placement"]["saturations"]
    assert (event["phase"], event["op"]) == ("encoder", "states")
    assert event["runs"] >= 1


def test_the_line_names_the_first_op_and_counts_the_others() -> None:
    assert notice_of([]) is None
    events = [Saturation(*each, 1) for each in (("prefill", "a"), ("step", "a"), ("step", "b"))]
    assert notice_of(events[:2]) == f"a: {CUT}"
    assert notice_of(events) == f"a and 1 more: {CUT}"
