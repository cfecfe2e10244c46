"""Downloading one file from a hub that cuts, corrupts, stalls, redirects and lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.hub.fake_hub import (
    COMMIT,
    REPOSITORY,
    FakeHub,
    corrupt,
    cut_after,
    ignore_range,
    longer,
    other_range,
    redirect,
    refuse,
    serving,
    short_after,
    silence,
    stall,
)
from whisper_npu.errors import ModelError
from whisper_npu.hub import client, download
from whisper_npu.hub.client import Hub

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are small here: blocks, and what counts as getting further, too."""
    monkeypatch.setattr(client, "BLOCK", 1000)
    monkeypatch.setattr(download, "BLOCK", 1000)
    monkeypatch.setattr(client, "PROGRESS", 10_000)


def get(folder: Path, name: str = WEIGHTS) -> bytes:
    hub = Hub()
    snapshot = hub.snapshot(REPOSITORY, "main")
    path = download.fetch(hub, snapshot, snapshot.file(name), folder, progress=False)
    assert path == folder / name
    return path.read_bytes()


def complaint(folder: Path, name: str = WEIGHTS) -> str:
    with pytest.raises(ModelError) as caught:
        get(folder, name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def ranges(hub: FakeHub, name: str = WEIGHTS) -> list[str | None]:
    return [headers["Range"] for headers in hub.asked(name)]


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_file(hub: FakeHub, tmp_path: Path, name: str) -> None:
    assert get(tmp_path, name) == hub.files[name]
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert ranges(hub, name) == [None]
    assert hub.asked(name)[0]["Accept-Encoding"] == "identity"


def test_an_empty_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["empty"] = b""
    assert get(tmp_path, "empty") == b""


class TestResuming:
    def test_within_a_call(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), cut_after(30_000)]
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert ranges(hub) == [None, "bytes=20000-", "bytes=50000-"]

    def test_in_a_later_call(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), refuse(403)]
        complaint(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == [f"{WEIGHTS}.part"]
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert ranges(hub)[-1] == "bytes=20000-"

    def test_attempts_that_get_further_do_not_count(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = 8 * [cut_after(10_000)]
        assert get(tmp_path) == hub.files[WEIGHTS]

    def test_attempts_that_get_nowhere_do(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), *(8 * [cut_after(100)])]
        assert complaint(tmp_path).endswith("gave up after 4 attempts")
        assert len(hub.asked(WEIGHTS)) == 4

    def test_a_hub_that_begins_anew_each_time_gets_nowhere(
        self, hub: FakeHub, tmp_path: Path
    ) -> None:
        def half(handler, content, start):  # type: ignore[no-untyped-def]
            handler.send(200, content[:50_000], len(content))
            handler.cut()

        hub.faults[WEIGHTS] = 20 * [half]
        assert complaint(tmp_path).endswith("gave up after 4 attempts")

    def test_a_server_that_ignores_range(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), ignore_range]
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert len(hub.asked(WEIGHTS)) == 2

    def test_a_server_that_sends_another_range(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [cut_after(20_000), other_range]
        assert "from byte 20000 on and sends 'bytes 1-" in complaint(tmp_path)

    def test_a_whole_part_needs_no_request(self, hub: FakeHub, tmp_path: Path) -> None:
        (tmp_path / f"{WEIGHTS}.part").write_bytes(hub.files[WEIGHTS])
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert ranges(hub) == []

    def test_a_file_that_is_there_is_not_fetched_again(self, hub: FakeHub, tmp_path: Path) -> None:
        get(tmp_path)
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert len(hub.asked(WEIGHTS)) == 1

    def test_but_it_is_if_it_is_wrong(self, hub: FakeHub, tmp_path: Path) -> None:
        (tmp_path / WEIGHTS).write_bytes(bytes(len(hub.files[WEIGHTS])))
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert ranges(hub) == [None]

    def test_a_part_that_is_too_long(self, hub: FakeHub, tmp_path: Path) -> None:
        (tmp_path / f"{WEIGHTS}.part").write_bytes(hub.files[WEIGHTS] + b"more")
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert ranges(hub) == [None]

    def test_a_file_that_has_changed_meanwhile(self, hub: FakeHub, tmp_path: Path) -> None:
        """What is there is the beginning of another file."""
        (tmp_path / f"{WEIGHTS}.part").write_bytes(bytes(20_000))
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert ranges(hub) == ["bytes=20000-", None]


class TestWrongContent:
    @pytest.mark.parametrize(("name", "kind"), [(WEIGHTS, "sha256"), (CONFIG, "git blob sha1")])
    def test_corrupt_once(self, hub: FakeHub, tmp_path: Path, name: str, kind: str) -> None:
        hub.faults[name] = [corrupt]
        assert get(tmp_path, name) == hub.files[name]
        assert ranges(hub, name) == [None, None]

    @pytest.mark.parametrize(("name", "kind"), [(WEIGHTS, "sha256"), (CONFIG, "git blob sha1")])
    def test_corrupt_twice(self, hub: FakeHub, tmp_path: Path, name: str, kind: str) -> None:
        hub.faults[name] = 3 * [corrupt]
        message = complaint(tmp_path, name)
        expected = Hub().snapshot(REPOSITORY, "main").file(name).digest
        assert f"owner/nano: {name} comes wrong from {hub.endpoint}: its {kind} is " in message
        assert f", not {expected}; it came so twice" in message
        assert list(tmp_path.iterdir()) == []
        assert len(hub.asked(name)) == 2

    def test_longer_than_announced(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [longer, longer]
        assert f"it has more than {len(hub.files[WEIGHTS])} bytes" in complaint(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_shorter_than_announced(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [short_after(20_000)]
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert ranges(hub) == [None, "bytes=20000-"]

    def test_always_shorter_than_announced(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[CONFIG] = [short_after(100), *(4 * [short_after(0)])]
        size = len(hub.files[CONFIG])
        assert complaint(tmp_path, CONFIG) == (
            f"owner/nano: config.json ended after 100 of {size} bytes; gave up after 4 attempts"
        )


class TestTroubles:
    def test_a_stall(self, hub: FakeHub, impatient: None, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [stall]
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert len(hub.asked(WEIGHTS)) >= 2

    def test_stalls_without_end(self, hub: FakeHub, impatient: None, tmp_path: Path) -> None:
        hub.faults[CONFIG] = 4 * [silence]
        assert complaint(tmp_path, CONFIG).endswith("timed out; gave up after 4 attempts")

    def test_errors_of_the_server(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.faults[WEIGHTS] = [refuse(500), refuse(429, Retry_After="0"), refuse(503)]
        assert get(tmp_path) == hub.files[WEIGHTS]

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (404, f"refuses {CONFIG} (404), though {COMMIT[:12]} lists it"),
            (403, f"refuses {CONFIG} (403); accept its terms"),
            (401, f"refuses {CONFIG} (401): there is none"),
            (416, f"refuses {CONFIG} (416)"),
        ],
    )
    def test_refusals(self, hub: FakeHub, tmp_path: Path, status: int, reason: str) -> None:
        hub.faults[CONFIG] = [refuse(status)]
        assert reason in complaint(tmp_path, CONFIG)
        assert len(hub.asked(CONFIG)) == 1

    def test_ctrl_c_leaves_a_part(
        self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(bar: object, position: int) -> None:
            if position > 20_000:
                raise KeyboardInterrupt

        monkeypatch.setattr(download, "_show", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
        monkeypatch.undo()
        (part,) = tmp_path.iterdir()
        assert part.name == f"{WEIGHTS}.part"
        assert hub.files[WEIGHTS].startswith(part.read_bytes())
        assert part.stat().st_size > 20_000


class TestRedirects:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_to_another_server(
        self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        """The range goes with it, the token does not."""
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        (tmp_path / f"{WEIGHTS}.part").write_bytes(hub.files[WEIGHTS][:20_000])
        with serving(FakeHub(hub.files)) as cdn:
            there = cdn.endpoint.replace("127.0.0.1", host)
            hub.faults[WEIGHTS] = [redirect(f"{there}/cdn/{WEIGHTS}")]
            assert get(tmp_path) == hub.files[WEIGHTS]
            assert hub.asked(WEIGHTS)[0]["Authorization"] == "Bearer hf_secret"
            (headers,) = cdn.asked(WEIGHTS)
            assert headers["Authorization"] is None
            assert headers["Range"] == "bytes=20000-"

    def test_within_the_hub(
        self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        hub.faults[WEIGHTS] = [redirect(f"/{REPOSITORY}/resolve/{COMMIT}/{WEIGHTS}")]
        assert get(tmp_path) == hub.files[WEIGHTS]
        assert [h["Authorization"] for h in hub.asked(WEIGHTS)] == 2 * ["Bearer hf_secret"]

    def test_a_cut_after_a_redirect(self, hub: FakeHub, tmp_path: Path) -> None:
        """The hub is asked again: addresses of the other server expire."""
        with serving(FakeHub(hub.files, faults={WEIGHTS: [cut_after(20_000)]})) as cdn:
            hub.faults[WEIGHTS] = 2 * [redirect(f"{cdn.endpoint}/cdn/{WEIGHTS}")]
            assert get(tmp_path) == hub.files[WEIGHTS]
            assert len(hub.asked(WEIGHTS)) == len(cdn.asked(WEIGHTS)) == 2
