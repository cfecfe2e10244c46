"""A runtime in a process of its own, which answers lines of JSON.

    python -m tools.accuracy.worker '{"module": ..., "model": ..., "threads": ..., "options": {}}'

answers ``{"ready": VERSION}`` once the model is loaded, and then one of these requests after the
other:

    {"ask": "text", "path", "language"}            -> {"text"}
    {"ask": "tokens", "path", "language"}          -> {"prompt", "text"}, tokens by greedy search
    {"ask": "logits", "path", "prompt", "text", "to"}          -> {}, written as a .npy file
    {"ask": "compare", "path", "prompt", "text", "reference"}  -> see ``compare``
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.bench.runtime import Runtime
from tools.bench.worker import answer, own_stdout, requests


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:  # [n, n_vocab], of each row
    """In float64: what is compared differs by less than float32 can tell."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def compare(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
    """Of all rows: their number, in how many of them the likeliest token is the same, and the sum
    of the Kullback-Leibler divergences of ``logits`` from ``reference``, in nats."""
    if logits.shape != reference.shape:
        raise ValueError(f"logits are {logits.shape}, not {reference.shape}")
    own, wanted = log_softmax(logits), log_softmax(reference)
    divergences = (np.exp(wanted) * (wanted - own)).sum(axis=-1)
    same = logits.argmax(axis=-1) == reference.argmax(axis=-1)
    return {"rows": len(logits), "same": int(same.sum()), "divergence": float(divergences.sum())}


def respond(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    ask, path = request["ask"], Path(request["path"])
    if ask == "text":
        return {"text": runtime.transcribe(path, request["language"], fallback=False)}
    if ask == "tokens":
        prompt, text = runtime.chosen(path, request["language"])
        return {"prompt": prompt, "text": text}
    logits = runtime.forced(path, request["prompt"], request["text"])
    if ask == "logits":
        np.save(request["to"], logits)
        return {}
    return compare(logits, np.load(request["reference"]))


def main() -> None:
    task = json.loads(sys.argv[1])
    answers = own_stdout()
    load = import_module(f"tools.bench.{task['module']}").load
    runtime: Runtime = load(Path(task["model"]), task["threads"], **task["options"])
    answer(answers, {"ready": runtime.version()})
    for request in requests():
        answer(answers, respond(runtime, request))


if __name__ == "__main__":
    main()
