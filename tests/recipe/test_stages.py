"""The two stages of the built-in model's training: all of it, then the decoder alone."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.reference


@pytest.fixture
def small() -> Any:
    import torch

    from weights.demo.recipe import model

    torch.manual_seed(1)
    return model.Whisper(5)


def test_several_rows_of_tokens_read_the_window_they_belong_to(small: Any) -> None:
    import torch

    mel = torch.randn(2, 80, 200)
    tokens = torch.randint(0, 1000, (4, 7))
    with torch.no_grad():
        together, _ = small(mel, tokens)
        apart = [small(mel[i // 2 : i // 2 + 1], tokens[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(together, torch.cat(apart))


def test_the_decoder_alone_is_trained(small: Any) -> None:
    import torch

    from weights.demo.recipe import optim

    small.only_decoder()
    logits, ctc = small(torch.randn(1, 80, 200), torch.randint(0, 1000, (2, 7)))
    (logits.square().mean() + ctc.mean()).backward()
    trained = {name for name, param in small.named_parameters() if param.grad is not None}
    assert trained == {name for name, _ in small.named_parameters() if name.startswith("decoder.")}
    matrices, others = optim.split_parameters(small)
    assert len(matrices) + len(others) == len(trained)
