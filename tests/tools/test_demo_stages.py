"""The two stages of the demo model's training: all of it, then the decoder alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def tool() -> Any:
    """The tool's modules, while they can be imported."""
    folder = str(ROOT / "tools" / "demo_model")
    sys.path.insert(0, folder)
    yield folder
    sys.path.remove(folder)


@pytest.fixture
def small(tool: str) -> Any:
    import model
    import torch
    import vocab

    torch.manual_seed(1)
    dims = model.Dims(n_vocab=vocab.VOCAB_SIZE)
    return model.Whisper(dims, 5)


def test_several_rows_of_tokens_read_the_window_they_belong_to(small: Any) -> None:
    import torch

    mel = torch.randn(2, 80, 200)
    tokens = torch.randint(0, 1000, (4, 7))
    with torch.no_grad():
        together, _ = small(mel, tokens)
        apart = [small(mel[i // 2 : i // 2 + 1], tokens[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(together, torch.cat(apart))


def test_the_decoder_alone_is_trained(small: Any, tool: str) -> None:
    import optim
    import torch

    small.only_decoder()
    logits, ctc = small(torch.randn(1, 80, 200), torch.randint(0, 1000, (2, 7)))
    (logits.square().mean() + ctc.mean()).backward()
    trained = {name for name, param in small.named_parameters() if param.grad is not None}
    assert trained == {name for name, _ in small.named_parameters() if name.startswith("decoder.")}
    matrices, others = optim.split_parameters(small)
    assert len(matrices) + len(others) == len(trained)
