from __future__ import annotations

import json
from pathlib import Path

import pytest

from whisper_npu.cli import main

CONFIG = {
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "d_model": 64,
    "encoder_attention_heads": 2,
    "encoder_layers": 3,
    "vocab_size": 70,
    "max_target_positions": 448,
    "decoder_attention_heads": 2,
    "decoder_layers": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def test_text_has_shapes_and_costs(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--model", folder, "--phase", "encoder"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    # 1500 x 256 outputs of 64 products each, a multiply and an add counted as two.
    assert "[1, 1500, 256]" in lines["encoder.2.fc1"]
    assert f"{2 * 1500 * 256 * 64:,}" in lines["encoder.2.fc1"]
    moved = 4 * (1500 * 64 + 256 * 64 + 256 + 1500 * 256)
    assert f"{moved:,}" in lines["encoder.2.fc1"]
    assert "encoder.3.fc1" not in lines


def test_json_is_the_whole_graph(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--model", folder, "--format", "json"]) == 0
    graphs = {graph["name"]: graph for graph in json.loads(capsys.readouterr().out)}
    assert list(graphs) == ["mel", "encoder", "cross_kv", "prefill", "step", "choice"]
    step = graphs["step"]
    names = {tensor["name"] for tensor in step["tensors"]}
    assert all(set(op["inputs"] + op["outputs"]) <= names for op in step["ops"])
    assert step["ops"][-1]["kind"] == "linear"
    assert step["ops"][-1]["flops"] == 2 * 64 * 70


def test_dot_draws_every_op(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--model", folder, "--phase", "cross_kv", "--format", "dot"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digraph cross_kv {")
    assert out.rstrip().endswith("}")
    assert out.count("shape=record") == 4


def test_a_published_size_needs_no_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--model", "large-v3-turbo", "--phase", "step"]) == 0
    assert "[1, 1, 51866]" in capsys.readouterr().out


def test_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--model", "nowhere"]) == 3
    assert "nowhere: neither a model folder nor one of tiny" in capsys.readouterr().err


def test_unknown_phase() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["graph", "--model", "tiny", "--phase", "middle"])
    assert caught.value.code == 2
