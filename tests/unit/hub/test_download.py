"""Downloading one file from a hub that cuts, corrupts, stalls, redirects and lies.

It ends in the Hugging Face cache, as any program expects it there.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.unit.hub.fake_hub import (
    COMMIT,
    REPOSITORY,
    FakeHub,
    Fault,
    begin_anew,
    corrupt,
    cut_after,
    damage,
    git_blob,
    ignore_range,
    longer,
    other_range,
    redirect,
    refuse,
    say,
    serving,
    short_after,
    silence,
    stall,
)
from whisper_npu.errors import ModelError
from whisper_npu.hub import remote
from whisper_npu.hub.remote import Hub

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are small here: what counts as getting further, too."""
    monkeypatch.setattr(remote, "PROGRESS", 10_000)


def snapshot_folder() -> Path:
    return Path(constants.HF_HUB_CACHE) / "models--owner--nano/snapshots" / COMMIT


def blobs() -> Path:
    return Path(constants.HF_HUB_CACHE) / "models--owner--nano/blobs"


def blob(hub: FakeHub, name: str = WEIGHTS) -> Path:
    """Where the content of a file is."""
    content = hub.files[name]
    return blobs() / (sha256(content).hexdigest() if name in hub.lfs else git_blob(content))


def part(hub: FakeHub, content: bytes | None = None) -> Path:
    """Where the beginning of the weights is while they come; ``content``, if given, came before."""
    path = blob(hub).with_name(f"{blob(hub).name}.whisper-npu.incomplete")
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return path


def _no_links(*_: object) -> None:
    raise PermissionError(1, "no symbolic links here")


def etag(name: str) -> Fault:
    """What a file is, under another name."""
    return lambda handler, content, start: handler.send(
        200, content, X_Repo_Commit=COMMIT, ETag=f'"{name}"'
    )


def get(name: str = WEIGHTS) -> bytes:
    hub = Hub()
    snapshot = hub.snapshot(REPOSITORY, "main")
    path = hub.fetch(snapshot, snapshot.file(name))
    assert path == snapshot_folder() / name
    return path.read_bytes()


def complaint(name: str = WEIGHTS) -> str:
    with pytest.raises(ModelError) as caught:
        get(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def ranges(hub: FakeHub, name: str = WEIGHTS) -> list[str | None]:
    return [headers["Range"] for headers in hub.asked(name)]


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_file(hub: FakeHub, name: str) -> None:
    assert get(name) == hub.files[name]
    assert [file.name for file in snapshot_folder().iterdir()] == [name]
    assert list(blobs().iterdir()) == [blob(hub, name)]
    assert ranges(hub, name) == [None]
    assert hub.asked(name)[0]["Accept-Encoding"] == "identity"


def test_an_empty_file(hub: FakeHub) -> None:
    hub.files["empty"] = b""
    assert get("empty") == b""


class TestResuming:
    def test_within_a_call(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), cut_after(30_000)]
        assert get() == hub.files[WEIGHTS]
        assert ranges(hub) == [None, "bytes=20000-", "bytes=50000-"]

    def test_in_a_later_call(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), refuse(403)]
        complaint()
        assert list(blobs().iterdir()) == [part(hub)]
        assert get() == hub.files[WEIGHTS]
        assert ranges(hub)[-1] == "bytes=20000-"

    def test_attempts_that_get_further_do_not_count(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = 8 * [cut_after(10_000)]
        assert get() == hub.files[WEIGHTS]

    def test_also_with_a_busy_server_between_them(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = 6 * [cut_after(100_000), refuse(503)]
        assert get() == hub.files[WEIGHTS]

    def test_attempts_that_get_nowhere_do(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), *(99 * [cut_after(0)])]
        assert "gave up after 4 attempts" in complaint()

    def test_a_hub_that_begins_anew_each_time_gets_nowhere(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = 99 * [begin_anew]
        assert "bytes came; it came so twice" in complaint()

    def test_a_server_that_ignores_range(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), ignore_range]
        assert get() == hub.files[WEIGHTS]

    def test_a_server_that_sends_another_range(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), other_range]
        assert get() == hub.files[WEIGHTS]

    def test_a_whole_part_needs_no_request(self, hub: FakeHub) -> None:
        part(hub, hub.files[WEIGHTS])
        assert get() == hub.files[WEIGHTS]
        assert ranges(hub) == []

    def test_a_file_that_is_there_is_not_fetched_again(self, hub: FakeHub) -> None:
        get()
        assert get() == hub.files[WEIGHTS]
        assert len(hub.asked(WEIGHTS)) == 1

    def test_but_it_is_if_it_is_wrong(self, hub: FakeHub) -> None:
        get()
        blob(hub).write_bytes(damage(hub.files[WEIGHTS]))
        assert get() == hub.files[WEIGHTS]
        assert ranges(hub) == [None, None]

    def test_also_if_the_snapshot_has_it_by_another_way(self, hub: FakeHub) -> None:
        """As where there are no symbolic links, or a program has put its own file there."""
        get()
        pointer = snapshot_folder() / WEIGHTS
        pointer.unlink()
        pointer.write_bytes(damage(hub.files[WEIGHTS]))
        assert get() == hub.files[WEIGHTS]
        assert pointer.samefile(blob(hub))

    @pytest.mark.filterwarnings("ignore:.*uses symlinks by default")
    def test_without_symbolic_links(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        """The content is there once."""
        monkeypatch.setattr("huggingface_hub.file_download.os.symlink", _no_links)
        assert get() == hub.files[WEIGHTS]
        assert list(blobs().iterdir()) == []
        assert get() == hub.files[WEIGHTS]
        assert len(hub.asked(WEIGHTS)) == 1

    def test_a_hub_that_calls_files_otherwise_than_it_lists_them(self, hub: FakeHub) -> None:
        """As mirrors do."""
        hub.faults[f"HEAD {WEIGHTS}"] = [etag("other")]
        assert get() == hub.files[WEIGHTS]
        assert [path.name for path in blobs().iterdir()] == ["other"]

    def test_and_sends_another_one_then(self, hub: FakeHub) -> None:
        hub.faults[f"HEAD {WEIGHTS}"] = [etag("other")]
        hub.faults[WEIGHTS] = [say(hub.files[WEIGHTS]), corrupt]
        assert f"{WEIGHTS} comes wrong from {hub.endpoint}: its sha256 is " in complaint()
        assert not (snapshot_folder() / WEIGHTS).exists()

    def test_a_part_that_is_too_long(self, hub: FakeHub) -> None:
        part(hub, hub.files[WEIGHTS] + b"more")
        assert get() == hub.files[WEIGHTS]
        assert ranges(hub) == [None]

    def test_a_file_that_has_changed_meanwhile(self, hub: FakeHub) -> None:
        """What is there is the beginning of another file."""
        part(hub, bytes(20_000))
        assert get() == hub.files[WEIGHTS]
        assert ranges(hub) == ["bytes=20000-", None]


class TestWrongContent:
    @pytest.mark.parametrize(("name", "kind"), [(WEIGHTS, "sha256"), (CONFIG, "git blob sha1")])
    def test_corrupt_once(self, hub: FakeHub, name: str, kind: str) -> None:
        hub.faults[name] = [corrupt]
        assert get(name) == hub.files[name]
        assert ranges(hub, name) == [None, None]

    @pytest.mark.parametrize(("name", "kind"), [(WEIGHTS, "sha256"), (CONFIG, "git blob sha1")])
    def test_corrupt_twice(self, hub: FakeHub, name: str, kind: str) -> None:
        hub.faults[name] = 3 * [corrupt]
        message = complaint(name)
        expected = blob(hub, name).name
        assert f"owner/nano: {name} comes wrong from {hub.endpoint}: its {kind} is " in message
        assert f", not {expected}; it came so twice" in message
        assert list(blobs().iterdir()) == []
        assert len(hub.asked(name)) == 2

    def test_longer_than_announced(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [longer, longer]
        assert f"more than its {len(hub.files[WEIGHTS])} bytes came" in complaint()
        assert list(blobs().iterdir()) == []

    def test_shorter_than_announced(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [short_after(20_000)]
        assert get() == hub.files[WEIGHTS]
        assert ranges(hub) == [None, "bytes=20000-"]

    def test_always_shorter_than_announced(self, hub: FakeHub) -> None:
        hub.faults[CONFIG] = [short_after(100), *(9 * [short_after(0)])]
        size = len(hub.files[CONFIG])
        message = complaint(CONFIG)
        assert message.startswith("owner/nano: config.json: ")
        assert f"{size}" in message
        assert message.endswith("gave up after 4 attempts")


class TestTroubles:
    def test_a_stall(self, hub: FakeHub, impatient: None) -> None:
        hub.faults[WEIGHTS] = [stall]
        assert get() == hub.files[WEIGHTS]
        assert len(hub.asked(WEIGHTS)) >= 2

    def test_stalls_without_end(self, hub: FakeHub, impatient: None) -> None:
        hub.faults[CONFIG] = 99 * [silence]
        assert complaint(CONFIG) == (
            f"{hub.endpoint}: cannot be reached: timed out; gave up after 4 attempts"
        )

    def test_errors_of_the_server(self, hub: FakeHub) -> None:
        hub.faults[WEIGHTS] = [refuse(500), refuse(429, Retry_After="0"), refuse(503)]
        assert get() == hub.files[WEIGHTS]

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (404, f"refuses {CONFIG} (404), though {COMMIT[:12]} lists it"),
            (403, f"refuses {CONFIG} (403); accept its terms"),
            (401, f"refuses {CONFIG} (401): there is none"),
            (416, f"refuses {CONFIG} (416)"),
        ],
    )
    def test_refusals(self, hub: FakeHub, status: int, reason: str) -> None:
        hub.faults[CONFIG] = [refuse(status)]
        assert reason in complaint(CONFIG)
        assert len(hub.asked(CONFIG)) == 1

    def test_ctrl_c_leaves_a_part(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        write = remote._Part.write

        def interrupted(file: remote._Part, content: bytes) -> int:
            if file.tell() > 20_000:
                raise KeyboardInterrupt
            return write(file, content)

        with monkeypatch.context() as patch:
            patch.setattr(remote._Part, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                get()
        assert hub.files[WEIGHTS].startswith(part(hub).read_bytes())
        assert part(hub).stat().st_size > 20_000
        assert get() == hub.files[WEIGHTS]


class TestRedirects:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_to_another_server(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        """The range goes with it, the token does not."""
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        part(hub, hub.files[WEIGHTS][:20_000])
        with serving(FakeHub(hub.files)) as cdn:
            there = cdn.endpoint.replace("127.0.0.1", host)
            hub.faults[WEIGHTS] = [redirect(f"{there}/cdn/{WEIGHTS}")]
            assert get() == hub.files[WEIGHTS]
            assert hub.asked(WEIGHTS)[0]["Authorization"] == "Bearer hf_secret"
            (headers,) = cdn.asked(WEIGHTS)
            assert headers["Authorization"] is None
            assert headers["Range"] == "bytes=20000-"

    def test_within_the_hub(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        hub.faults[WEIGHTS] = [redirect(f"/{REPOSITORY}/resolve/{COMMIT}/{WEIGHTS}")]
        assert get() == hub.files[WEIGHTS]
        assert [h["Authorization"] for h in hub.asked(WEIGHTS)] == 2 * ["Bearer hf_secret"]

    def test_a_cut_after_a_redirect(self, hub: FakeHub) -> None:
        """The hub is asked again: addresses of the other server expire."""
        with serving(FakeHub(hub.files, faults={WEIGHTS: [cut_after(20_000)]})) as cdn:
            hub.faults[WEIGHTS] = 2 * [redirect(f"{cdn.endpoint}/cdn/{WEIGHTS}")]
            assert get() == hub.files[WEIGHTS]
            assert len(hub.asked(WEIGHTS)) == len(cdn.asked(WEIGHTS)) == 2
