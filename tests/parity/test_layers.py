"""Every tensor that the network computes, against openai-whisper's.

Once against what was kept of the reference's tensors (tests/data/layers, made by
tests.dump) and once, where it is installed, against the reference itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from tests.parity.shapes import SHAPES
from tests.parity.tolerances import MEASURED, TOLERANCES
from tests.support import synthetic_audio
from tests.support.checkpoints import checkpoint
from tests.support.reference import layers
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.runtime.model import Model

DUMPS = Path(__file__).parents[1] / "data" / "layers"


@lru_cache(maxsize=1)
def seeded(shape: str) -> tuple[Checkpoint, layers.Inputs]:
    made = checkpoint(SHAPES[shape])
    return made, layers.seeded_inputs(made.dims, synthetic_audio.recorded_speech(30, seed=1))


@lru_cache(maxsize=1)
def ours(shape: str) -> Model:
    return numpy_model(seeded(shape)[0], "float32")


# Of module scope, so that the tests of a shape follow each other and share its checkpoint.
@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return request.param


def check(model: Model, inputs: layers.Inputs, reference: layers.Reference) -> None:
    problem = layers.first_beyond(layers.differences(model, inputs, reference), TOLERANCES)
    assert problem is None, problem


def test_against_the_kept_reference(shape: str) -> None:
    check(ours(shape), seeded(shape)[1], layers.load(DUMPS / f"{shape}.npz"))


@pytest.mark.reference
def test_against_the_reference(shape: str) -> None:
    from tests.support.reference.adapter import reference_model
    from tests.support.reference.capture import capture_layers

    made, inputs = seeded(shape)
    captured = capture_layers(reference_model(made.dims, made.weights), inputs)
    reference = {key: layers.Whole(array) for key, array in captured.items()}
    assert {layers.kind(name) for _, name in reference} == set(MEASURED)
    check(ours(shape), inputs, reference)


@pytest.mark.reference
def test_a_batch_is_its_windows_one_by_one() -> None:
    """Two windows of three sequences each, whose caches are moved about as beams are."""
    from tests.support.reference.adapter import reference_model
    from tests.support.reference.capture import capture_decoder, capture_encoder

    made, inputs = seeded("odd")
    windows = [inputs.features, inputs.features[:, :, ::-1].copy()]
    reference = reference_model(made.dims, made.weights)
    states = [capture_encoder(reference, window)["states"] for window in windows]
    prompts = [inputs.prompt, inputs.prompt[::-1]]
    first, second = inputs.steps[:6], inputs.steps[6:12]
    source = np.array([2, 0, 0, 3, 5, 4])

    session = ours("odd").decoder(ours("odd").encode(np.concatenate(windows)), group=3)
    session.prefill(np.stack(prompts), [0])
    session.step(first)
    session.reorder(source)
    logits = session.step(second)

    for i, (origin, token) in enumerate(zip(source, second, strict=True)):
        tokens = [int(first[origin]), int(token)]
        expected = capture_decoder(reference, states[i // 3], prompts[i // 3].tolist(), tokens)
        error = layers.Whole(expected[-1]["logits"][0, 0]).error(logits[i])
        assert error <= TOLERANCES["logits"], f"sequence {i}"


@pytest.mark.parametrize(
    ("weight", "tensor"),
    [
        ("model.encoder.conv2.bias", "encoder: conv2 "),
        ("model.encoder.layers.1.self_attn.v_proj.bias", "encoder: encoder.1.v "),
        ("model.encoder.layers.2.fc1.weight", "encoder: encoder.2.fc1 "),
        ("model.decoder.layers.1.encoder_attn.k_proj.weight", "cross: cross.1.k "),
        ("model.decoder.layers.0.encoder_attn_layer_norm.bias", "prefill: decoder.0.cross_ln "),
        ("model.decoder.layer_norm.weight", "prefill: final_ln "),
    ],
)
def test_a_wrong_weight_shows_in_the_first_tensor_it_enters(weight: str, tensor: str) -> None:
    made, inputs = seeded("odd")
    wrong = replace(made, weights={**made.weights, weight: made.weights[weight] * 1.001 + 1e-4})
    reference = layers.load(DUMPS / "odd.npz")
    problem = layers.first_beyond(
        layers.differences(numpy_model(wrong, "float32"), inputs, reference), TOLERANCES
    )
    assert problem is not None
    assert problem.startswith(tensor)


def test_the_cache_position_shows_in_the_steps() -> None:
    """A step that reads the cache one token short agrees nowhere but in the prefill."""
    _, inputs = seeded("odd")
    reference = layers.load(DUMPS / "odd.npz")
    late = replace(inputs, prompt=inputs.prompt[:-1], steps=inputs.steps)
    reference = {key: value for key, value in reference.items() if key[0].startswith("step")}
    found = layers.differences(ours("odd"), late, reference)
    assert min(d.error for d in found if d.name == "logits") > 100 * TOLERANCES["logits"]


def test_errors_that_are_not_numbers_are_beyond_every_tolerance() -> None:
    value = layers.Whole(np.ones(3, np.float32))
    reference = {("prefill", "logits"): value}
    assert layers._error(value, "prefill", "logits", np.full(3, np.nan)) == np.inf
    with pytest.raises(ValueError, match=r"prefill: logits: shape \(4,\), not \(3,\)"):
        layers._error(reference["prefill", "logits"], "prefill", "logits", np.ones(4))


def test_a_kept_sample_sees_what_lies_between_its_values() -> None:
    array = np.random.RandomState(0).standard_normal((40, 50)).astype(np.float32)
    kept = layers.Sampled.of("logits", array)
    assert kept.error(array) == 0
    assert kept.error(array * np.float32(1.001)) > 9e-4
    outside = np.setdiff1d(np.arange(array.size), layers._sampled_indices("logits", array.size))
    changed = array.copy()
    changed.reshape(-1)[outside[0]] += 1
    assert kept.error(changed) > 1e-5
