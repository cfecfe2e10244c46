"""``whisper-npu models``: what was pulled, and its removal."""

from __future__ import annotations

import argparse
import json
from typing import Any

from whisper_npu.cli.options import HelpFormatter, add_format
from whisper_npu.cli.process import say
from whisper_npu.errors import ModelError, WhisperNpuError
from whisper_npu.files.whole import file_sha256
from whisper_npu.hub.folders import BUILT_IN, built_in_directory
from whisper_npu.hub.store import Store, StoredModel, readable_size, record
from whisper_npu.model.folder import WEIGHTS
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING
from whisper_npu.terminal import note, printable

_COLUMNS = ("NAME", "REPOSITORY", "COMMIT", "DTYPE", "SIZE", "SHA256", "FROM")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command and of its own commands."""
    add_format(parser)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")
    remover = actions.add_parser(
        "remove",
        help="remove pulled models",
        description="Remove pulled models. Downloads in the Hugging Face cache stay there.",
        formatter_class=HelpFormatter,
    )
    remover.add_argument("names", nargs="+", metavar="NAME", help="as in the list")
    remover.set_defaults(command=remove)


def run(args: argparse.Namespace) -> int:
    """Print all models on stdout, the built-in one last."""
    models = [*(_described(model) for model in Store().all()), _built_in()]
    if args.format == "json":
        say(json.dumps(models, indent=2))
        return 0
    rows = [_COLUMNS, *(_row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(printable("  ".join(cells).rstrip()))
    return 0


def remove(args: argparse.Namespace) -> int:
    """Remove every model named; return the highest exit code of those that failed, or 0."""
    store = Store()
    return max(_remove(store, name) for name in args.names)


def _remove(store: Store, name: str) -> int:
    try:
        if name == BUILT_IN:
            raise ModelError(f"{name}: is built in and cannot be removed")
        store.remove(name)
        # Imported here: it needs NumPy, which a name that is wrong does not.
        from whisper_npu.runtime.packed import sweep

        sweep()
    except WhisperNpuError as error:
        note(f"error: {error}")
        return error.exit_code
    return 0


def _described(model: StoredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": str(model.path),
        "size": model.size,
        **record(model),
    }


def _built_in() -> dict[str, Any]:
    # Imported here: it needs NumPy, and models remove does not.
    from whisper_npu.model.integer_files import VERSION_KEY
    from whisper_npu.model.safetensors_file import SafetensorsFile
    from whisper_npu.model.stored import SAFETENSORS

    folder = built_in_directory()
    weights = SafetensorsFile(folder / WEIGHTS)
    files = {
        file.name: {"size": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(folder.iterdir())
        if file.is_file()  # in a checkout the recipe lies beside them
    }
    return {
        "name": BUILT_IN,
        "path": str(folder),
        "size": sum(file["size"] for file in files.values()),
        "repository": None,
        "revision": None,
        "commit": None,
        "dtype": SAFETENSORS[weights.entries[TOKEN_EMBEDDING].dtype].name,
        "pulled": None,
        "packages": None,
        "format": int(weights.metadata.get(VERSION_KEY, 1)),
        "files": files,
    }


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        model["name"],
        model["repository"] or "(built in)",
        (model["commit"] or "-")[:7],
        model["dtype"],
        readable_size(model["size"]),
        model["files"][WEIGHTS]["sha256"][:12],
        model["packages"] or ("hub" if model["repository"] else "-"),
    )
