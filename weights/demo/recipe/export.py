"""The trained checkpoint as a Hugging Face Whisper directory in float16, then as INT8.

The alignment heads are measured: speech of known timing goes through the model, and the heads whose
attention follows the audio best are listed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from weights.demo.recipe import vocab
from weights.demo.recipe.model import DIMS, Whisper
from weights.demo.recipe.windows import N_CTC, Composer
from whisper_npu.convert import convert
from whisper_npu.convert.configs import made_config, made_generation
from whisper_npu.convert.openai_names import names_from_openai
from whisper_npu.text.tokenizer import Tokenizer

N_ALIGNMENT_HEADS = 3
N_WINDOWS = 40  # on which the heads are measured


@torch.no_grad()
def measure_heads(
    model: Whisper, work_dir: Path, windows: int = 40
) -> dict[tuple[int, int], float]:
    """How closely each cross-attention head (layer, head) follows the audio; the closest first.

    It is measured on held-out windows. A window of several utterances has known starts and ends;
    within an utterance its tokens are taken to be spread evenly. The figure is the mean distance
    in seconds between a token's share of the utterance and the centre of the head's attention.
    """
    composer = Composer(work_dir, 5, "heldout", clean=True)
    totals: dict[tuple[int, int], float] = {}
    count = 0
    while count < N_WINDOWS:
        window = composer.window(30.0, 0.0)
        said = window.readings[0].tokens
        stamps = [i for i, t in enumerate(said) if t >= vocab.TIMESTAMP_BEGIN]
        if len(stamps) < 4 or vocab.SOT_PREV in said:
            continue
        count += 1
        tokens = torch.tensor([said])
        features = model.encoder(composer.features([window]))
        wanted = torch.full((len(said),), -1.0)
        for first, last in zip(stamps[::2], stamps[1::2], strict=False):
            t0, t1 = ((said[i] - vocab.TIMESTAMP_BEGIN) * 0.02 for i in (first, last))
            size = last - first - 1
            for i in range(size):
                # The attention at a position serves to predict the token that follows.
                wanted[first + i] = t0 + (t1 - t0) * (i + 0.5) / size
        rows = wanted >= 0
        for head, weights in cross_attention(model, tokens, features).items():
            peak = weights[0].argmax(-1) * 0.02
            error = (peak[rows] - wanted[rows]).abs().clamp(max=5.0).mean()
            totals[head] = totals.get(head, 0.0) + float(error) / N_WINDOWS
    return dict(sorted(totals.items(), key=lambda item: item[1]))


def cross_attention(
    model: Whisper, tokens: Tensor, features: Tensor
) -> dict[tuple[int, int], Tensor]:
    """The cross-attention of every decoder head (layer, head)."""
    decoder, found = model.decoder, {}
    x = decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[1]]
    for layer, block in enumerate(decoder.blocks):
        x = x + block.attn(block.attn_ln(x), causal=True)
        weights = block.cross_attn.weights(block.cross_attn_ln(x), features)
        for head in range(weights.shape[1]):
            found[layer, head] = weights[:, head]
        x = x + block.cross_attn(block.cross_attn_ln(x), features)
        x = x + block.mlp(block.mlp_ln(x))
    return found


def generation_config(tokenizer: Tokenizer, heads: list[tuple[int, int]]) -> dict[str, object]:
    """generation_config.json, with the alignment heads (layer, head)."""
    made = made_generation(DIMS, tokenizer)
    # The model was trained never to need the bare space, which openai-whisper suppresses.
    suppressed = sorted({*made["suppress_tokens"], *tokenizer.encode(" ")})
    return {**made, "suppress_tokens": suppressed, "alignment_heads": [list(h) for h in heads]}


def export(work_dir: Path, folder: Path) -> None:
    """Write the checkpoint as a Hugging Face directory in float16."""
    model = Whisper(N_CTC)
    model.load_state_dict(torch.load(work_dir / "checkpoint.pt", weights_only=True)["model"])
    distances = measure_heads(model.eval(), work_dir)
    for (layer, head), distance in distances.items():
        print(f"layer {layer}, head {head}: {distance:.2f} s from the even spread")
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    tensors = {
        name: state[ours].half().contiguous() for ours, name in names_from_openai(DIMS).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(work_dir / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = Tokenizer.from_dir(folder, DIMS.n_vocab, {})
    best = sorted(list(distances)[:N_ALIGNMENT_HEADS])
    for file, content in (
        ("config.json", made_config(DIMS, tokenizer)),
        ("generation_config.json", generation_config(tokenizer, best)),
    ):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")


def ship(work_dir: Path, out: Path) -> None:
    """Export the checkpoint, quantise it and put the four files of the model into ``out``."""
    export(work_dir, work_dir / "exported")
    origin = "weights/demo/recipe"
    made = convert(work_dir / "exported", work_dir / "int8", origin=origin, force=True)
    out.mkdir(parents=True, exist_ok=True)
    for file in made.dest.iterdir():
        shutil.copyfile(file, out / file.name)
