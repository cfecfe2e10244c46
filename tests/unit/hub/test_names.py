"""Short names, and which repository names are accepted."""

from __future__ import annotations

import pytest

from whisper_npu.errors import OptionError
from whisper_npu.hub.names import is_repository, repository_of, short_name, short_names


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("tiny", "openai/whisper-tiny"),
        ("medium.en", "openai/whisper-medium.en"),
        ("large-v1", "openai/whisper-large"),
        ("large-v2", "openai/whisper-large-v2"),
        ("large", "openai/whisper-large-v3"),
        ("large-v3", "openai/whisper-large-v3"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("large-v3-turbo", "openai/whisper-large-v3-turbo"),
        ("distil-small.en", "distil-whisper/distil-small.en"),
        ("distil-large-v3.5", "distil-whisper/distil-large-v3.5"),
        ("Some_One/my.model-2", "Some_One/my.model-2"),
    ],
)
def test_repositories(name: str, repository: str) -> None:
    assert repository_of(name) == repository


def test_all_names_of_openai_whisper_are_known() -> None:
    sizes = {"tiny", "base", "small", "medium"}
    larges = {"large", "large-v1", "large-v2", "large-v3", "large-v3-turbo", "turbo"}
    assert {*sizes, *(f"{size}.en" for size in sizes), *larges} <= set(short_names())


@pytest.mark.reference
def test_openai_whisper_has_no_others() -> None:
    whisper = pytest.importorskip("whisper")
    assert set(whisper.available_models()) <= set(short_names())


@pytest.mark.parametrize(
    "name",
    [
        *("", "tinny", "/", "a/", "/a", "a/b/c", "../a", "a/..", "./a", "a/b\n", "a/b c", "a\\b/c"),
        *("-a/b", "a/b-", "a/.b", "a--b/c", "a/b..c", "a/" + 97 * "b", "é/b", "a/b?c", "a/b@c"),
    ],
)
def test_what_is_no_repository_is_refused(name: str) -> None:
    assert not is_repository(name)
    with pytest.raises(OptionError, match=r"neither a repository .* nor one of tiny, tiny\.en"):
        repository_of(name)


def test_short_names_of_repositories() -> None:
    assert {short_name(short_names()[name]) for name in ("large", "large-v3")} == {"large-v3"}
    assert short_name("openai/whisper-large-v3-turbo") == "large-v3-turbo"
    assert short_name("owner/nano") == "owner/nano"
