"""Where the built-in model is: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from whisper_npu.errors import ModelError

BUILT_IN = "demo"

_PACKAGE = Path(__file__).parent
# ``weights`` is installed as whisper_npu/weights (pyproject.toml).
_PLACES = (_PACKAGE / "weights", _PACKAGE.parent / "weights")


def model_directory(model: str | Path) -> Path:
    """The folder of a model: ``demo`` is the built-in one, anything else a path.

    Raises ModelError if the built-in model was not installed.
    """
    if str(model) != BUILT_IN:
        return Path(model)
    for place in _PLACES:
        if (place / BUILT_IN / "config.json").is_file():
            return place / BUILT_IN
    raise ModelError(
        f"the built-in model {BUILT_IN!r} is not installed; give a model folder with --model"
    )
