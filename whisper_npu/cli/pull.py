"""``whisper-npu pull``: a model from the Hugging Face hub into the cache."""

from __future__ import annotations

import argparse

from whisper_npu.errors import OptionError
from whisper_npu.hub.names import repository_of, short_names
from whisper_npu.hub.store import Store, readable_size
from whisper_npu.model.weight_shapes import WEIGHT_DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "name", help=f"{', '.join(short_names())}; or a repository of the hub, owner/name"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit")
    parser.add_argument(
        "--dtype", default="int8", choices=WEIGHT_DTYPES, help="type of the tensors"
    )
    parser.add_argument("--force", action="store_true", help="convert again what is there")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="has no effect any more: downloads stay in the Hugging Face cache (HF_HOME)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="use only what was pulled or is in the Hugging Face cache (as with HF_HUB_OFFLINE=1)",
    )


def run(args: argparse.Namespace) -> int:
    """Pull the model and say on stdout where it is."""
    # Imported here: --help needs no HTTP and no NumPy.
    from whisper_npu.convert.pull import pull

    if not args.revision:
        raise OptionError("--revision: must not be empty")
    model, was_there = pull(
        Store(),
        repository_of(args.name),
        revision=args.revision,
        dtype=args.dtype,
        force=args.force,
        offline=args.offline,
    )
    already = "already " if was_there else ""
    print(
        f"{model.repository} ({model.dtype}, {readable_size(model.size)}) is {already}in "
        f"{model.path}\nUse it with: whisper-npu transcribe --model {model.name}"
    )
    return 0
