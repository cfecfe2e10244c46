"""Which tensor of a checkpoint is which weight, whatever program wrote it.

Readers give the names and shapes that they found. Here prefixes are taken off, names that mean
nothing to Whisper are left out with a warning, and what is left is compared with the specification.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.weight_shapes import (
    ENCODER_POSITIONS,
    TOKEN_EMBEDDING,
    Shape,
    check_layers,
    weight_specification,
)
from whisper_npu.ops.arrays import F32

# The logits share the token embedding. Some checkpoints store it a second time under this name, or
# only under this one.
TIED_OUTPUT = "proj_out.weight"

# Modules that hold a whole model: transformers' own heads and peft's, and those that torch wraps
# around it for several processes, for compilation and for checkpoints of activations.
_WRAPPERS = frozenset(
    (
        *("model", "base_model", "module", "_orig_mod"),
        *("_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    )
)
_ADAPTER = re.compile(r"(^|[._])(lora_|base_layer\.|modules_to_save\.|original_module\.)")
MERGE_FIRST = (
    "merge it into its base model first: PeftModel.from_pretrained(base, adapter)"
    ".merge_and_unload().save_pretrained(DIR)"
)

_NAMED = 5
_LONGEST_NAME = 200


@dataclass(frozen=True)
class WeightNames:
    """The names that a checkpoint has for the weights.

    ``found`` maps the weights of the specification, in its order, to names in the checkpoint. Only
    the encoder's positions may be missing from it: they are ``sinusoids``. ``output`` is an output
    layer that is stored beside the token embedding, or None; the two have to be equal.
    """

    found: Mapping[str, str]
    output: str | None


def find_weights(stored: Mapping[str, Shape], dims: ModelDimensions, source: str) -> WeightNames:
    """The weights among the tensors of a checkpoint, by their names and shapes.

    Warns of tensors that are no weights of a Whisper. Raises ModelError, naming ``source``, that
    tells all missing, mis-shaped and doubled weights at once, five of each by name.
    """
    check_layers(dims, len(stored), source)
    for name in stored:
        if _ADAPTER.search(name):
            raise ModelError(
                f"{source}: holds an adapter that is not merged ({named([name])}); {MERGE_FIRST}"
            )
    expected = weight_specification(dims)
    by_name: dict[str, list[str]] = {}
    for name in stored:
        by_name.setdefault(plain_name(name), []).append(name)
    # What is stored once, under either name, is both.
    if TOKEN_EMBEDDING not in by_name and TIED_OUTPUT in by_name:
        by_name[TOKEN_EMBEDDING] = by_name.pop(TIED_OUTPUT)
    shapes = {**expected, TIED_OUTPUT: expected[TOKEN_EMBEDDING]}
    weights = {name: by_name[name] for name in shapes if name in by_name}
    missing = [name for name in expected if name not in weights and name != ENCODER_POSITIONS]
    twice = [name for names in weights.values() if len(names) > 1 for name in names]
    misshaped = [
        f"{names[0]} is {list(stored[names[0]])}, not {list(shapes[name])}"
        for name, names in weights.items()
        if tuple(stored[names[0]]) != shapes[name]
    ]
    surplus = [name for plain, names in by_name.items() if plain not in weights for name in names]
    problems = [
        f"{len(names)} {kind}: {named(names)}"
        for kind, names in (
            ("missing", missing),
            ("that are the same weight", twice),
            ("of the wrong shape", misshaped),
            # They may be what is missing, by other names.
            ("unexpected", surplus if missing else []),
        )
        if names
    ]
    if problems:
        raise ModelError(f"{source}: tensors do not fit config.json: " + "; ".join(problems))
    if surplus:
        what = "tensors are no weights" if len(surplus) > 1 else "tensor is no weight"
        warnings.warn(
            f"{source}: {len(surplus)} {what} of a Whisper and ignored: {named(surplus)}",
            stacklevel=2,
        )
    output = weights.pop(TIED_OUTPUT, [None])[0]
    return WeightNames({name: names[0] for name, names in weights.items()}, output)


def plain_name(stored: str) -> str:
    """The name that a tensor has in Hugging Face's Whisper, without what models are wrapped in."""
    parts = [part for part in stored.split(".") if part not in _WRAPPERS]
    whole = parts[0] in ("encoder", "decoder") if parts else False
    return ".".join(["model", *parts] if whole else parts)


def named(names: Iterable[str]) -> str:
    """Names for a message: five of them, and how many more there are."""
    names = list(names)
    shown = [name if _is_plain(name) else repr(name[:_LONGEST_NAME]) for name in names[:_NAMED]]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(shown) + more


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and len(name) <= _LONGEST_NAME


def check_output(rows: Iterable[tuple[F32, F32]], output: str, source: str) -> None:
    """Compare the rows of an output layer with those of the token embedding. Raises ModelError."""
    if not all(np.array_equal(one, other) for one, other in rows):
        raise ModelError(f"{source}: {output} differs from {TOKEN_EMBEDDING}; Whisper shares them")


def sinusoids(dims: ModelDimensions, source: str) -> F32:  # -> [n_audio_ctx, d]
    """The positions of the encoder, which are no parameters.

    In float32 throughout, as transformers and openai-whisper compute them. Raises ModelError for a
    width that they do not have.
    """
    half = dims.n_audio_state // 2
    if dims.n_audio_state % 2 or half < 2:
        raise ModelError(
            f"{source}: has no {ENCODER_POSITIONS}, which for d_model {dims.n_audio_state} cannot "
            "be computed"
        )
    step = np.float32(math.log(10000) / (half - 1))
    rates = np.exp(-step * np.arange(half, dtype=np.float32))
    angles = np.arange(dims.n_audio_ctx, dtype=np.float32)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
