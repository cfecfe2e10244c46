"""What the hub says a repository holds, and how its refusals are explained."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from tests.unit.hub.fake_hub import (
    COMMIT,
    REPOSITORY,
    FakeHub,
    cut_after,
    git_blob,
    redirect,
    refuse,
    say,
    set_endpoint,
    silence,
)
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.hub import remote
from whisper_npu.hub.remote import Hub, Snapshot, UnreachableHubError


def snapshot(revision: str = "main", repository: str = REPOSITORY) -> Snapshot:
    return Hub().snapshot(repository, revision)


def complaint(revision: str = "main", repository: str = REPOSITORY) -> str:
    with pytest.raises(ModelError) as caught:
        snapshot(revision, repository)
    message = str(caught.value)
    assert "\n" not in message
    return message


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def endpoint_of(environment: dict[str, str]) -> str:
    """In a process of its own: the library reads its environment once."""
    code = "from whisper_npu.hub.remote import Hub; print(Hub().endpoint)"
    run = [sys.executable, "-c", code]
    others = {name: value for name, value in os.environ.items() if name != "HF_ENDPOINT"}
    done = subprocess.run(run, check=True, stdout=subprocess.PIPE, env=others | environment)
    return done.stdout.decode().strip()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client makes, which take no time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


class TestSnapshot:
    @pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
    def test_a_revision_becomes_a_commit(self, hub: FakeHub, revision: str) -> None:
        assert snapshot(revision).commit == COMMIT

    def test_files_have_size_and_hash(self, hub: FakeHub) -> None:
        found = snapshot()
        assert set(found.entries) == set(hub.files)
        for name, digest in (("config.json", git_blob), ("model.safetensors", sha256)):
            file, content = found.file(name), hub.files[name]
            assert (file.name, file.size, file.digest) == (name, len(content), digest(content))

    @pytest.mark.parametrize("commit", [None, 3, "main", "../" + 37 * "0", COMMIT + "\n"])
    def test_a_commit_that_is_none(self, hub: FakeHub, commit: object) -> None:
        hub.listing["sha"] = commit
        assert complaint() == "owner/nano: the hub gives no valid commit for 'main'"

    def test_no_files(self, hub: FakeHub) -> None:
        hub.listing["siblings"] = None
        assert complaint() == "owner/nano: the hub does not say which files it has"

    @pytest.mark.parametrize("siblings", [3, "config.json", [7], [{"size": 7}]])
    def test_files_that_are_no_list_of_them(self, hub: FakeHub, siblings: object) -> None:
        hub.listing["siblings"] = siblings
        assert "is no model hub: its answer is not one's: " in complaint()

    @pytest.mark.parametrize(
        "entry",
        [
            {"size": 3},
            {"blobId": 40 * "0"},
            {"size": -1, "blobId": 40 * "0"},
            {"size": 3, "blobId": 40 * "x"},
            {"size": "3", "blobId": 40 * "0"},
            {"lfs": {"size": 3, "sha256": 40 * "0", "pointerSize": 7}},
        ],
    )
    def test_sizes_and_hashes_that_are_none(self, hub: FakeHub, entry: dict[str, object]) -> None:
        hub.listing["siblings"] = [{"rfilename": 7}, {"rfilename": "a", **entry}]
        with pytest.raises(ModelError, match="gives no valid size and hash of a"):
            snapshot().file("a")

    @pytest.mark.parametrize("body", [b"<html>", b"[1]", b"[" * 100_000, b"\xff"])
    def test_an_answer_that_is_not_the_hubs(self, hub: FakeHub, body: bytes) -> None:
        hub.faults["api"] = [say(body)]
        assert complaint().startswith(f"{hub.endpoint}: is no model hub: its answer is not one's")


class TestRefusals:
    def test_no_such_repository(self, hub: FakeHub) -> None:
        message = complaint(repository="owner/nono")
        assert message.startswith(f"owner/nono: there is no such repository at {hub.endpoint}; ")
        assert "tiny, tiny.en, base" in message

    def test_no_such_revision(self, hub: FakeHub) -> None:
        message = complaint("v2")
        assert message == "owner/nano: has no revision 'v2'; it has 'main', 'v1'"

    def test_no_such_revision_and_no_list_of_them(self, hub: FakeHub) -> None:
        code = "RevisionNotFound"
        hub.faults["api"] = [refuse(404, X_Error_Code=code), say(b'{"branches": [{}]}')]
        assert complaint("v2") == "owner/nano: has no revision 'v2'; it has others"

    def test_401_without_a_token(self, hub: FakeHub) -> None:
        hub.faults["api"] = [refuse(401)]
        assert complaint().endswith(
            "refuses it (401): there is none of that name, or it is private: then set HF_TOKEN"
        )

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_gated_repository(self, hub: FakeHub, status: int) -> None:
        hub.faults["api"] = [refuse(status, X_Error_Code="GatedRepo")]
        assert complaint().endswith(
            f"refuses it ({status}); accept its terms at {hub.endpoint}/owner/nano and set "
            "HF_TOKEN to your token"
        )

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_token_that_is_not_enough(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        hub.faults["api"] = [refuse(status)]
        message = complaint()
        assert message.endswith("and see that your token may read it")
        assert "hf_secret" not in message

    def test_another_status(self, hub: FakeHub) -> None:
        hub.faults["api"] = [refuse(418)]
        assert complaint() == f"owner/nano: {hub.endpoint} refuses it (418)"


class TestLaterAttempts:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_passing_troubles(self, hub: FakeHub, status: int) -> None:
        hub.faults["api"] = 3 * [refuse(status)]
        assert snapshot().commit == COMMIT
        assert len(hub.requests) == 4

    def test_troubles_that_do_not_pass(self, hub: FakeHub) -> None:
        hub.faults["api"] = 9 * [refuse(503)]
        assert complaint().endswith(": answers 503; gave up after 4 attempts")
        assert len(hub.requests) == 4

    def test_refusals_are_final(self, hub: FakeHub) -> None:
        hub.faults["api"] = [refuse(403)]
        complaint()
        assert len(hub.requests) == 1

    def test_a_connection_that_is_cut(self, hub: FakeHub) -> None:
        hub.faults["api"] = [cut_after(10)]
        assert snapshot().commit == COMMIT

    def test_silence(self, hub: FakeHub, impatient: None) -> None:
        hub.faults["api"] = 4 * [silence]
        assert complaint() == (
            f"{hub.endpoint}: cannot be reached: timed out; gave up after 4 attempts"
        )

    def test_no_answer_at_all_is_waited_for_once(
        self, hub: FakeHub, impatient: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the library waits for in turn: names, addresses, its own attempts."""
        monkeypatch.setattr(remote, "FIRST_ANSWER", 0.5)
        slow = threading.Event()
        monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: slow.wait(60))
        began = time.monotonic()
        with pytest.raises(UnreachableHubError) as caught:
            snapshot()
        assert time.monotonic() - began < 10
        slow.set()
        assert str(caught.value) == (
            f"{hub.endpoint}: cannot be reached: it does not answer; gave up"
        )

    def test_a_user_may_have_more_patience(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "FIRST_ANSWER", 0.0)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)
        hub.faults["api"] = [refuse(503)]
        assert snapshot().commit == COMMIT

    def test_a_hub_that_has_answered_is_worth_more(
        self, hub: FakeHub, impatient: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = Hub()
        found = client.snapshot(REPOSITORY, "main")
        monkeypatch.setattr(remote, "FIRST_ANSWER", 0.0)
        hub.faults["config.json"] = 3 * [silence]
        assert client.fetch(found, found.file("config.json")).is_file()

    def test_nobody_there(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        # A port that was free a moment ago, and is not given to anybody soon.
        set_endpoint(monkeypatch, "http://127.0.0.1:1")
        assert complaint() == (
            "http://127.0.0.1:1: cannot be reached: Connection refused; gave up after 4 attempts"
        )

    def test_a_certificate_that_is_none(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It will not be one in a second either."""
        set_endpoint(monkeypatch, hub.endpoint.replace("http:", "https:"))
        message = complaint()
        assert "cannot be reached: [SSL" in message
        assert "gave up after" not in message

    def test_each_pause_is_longer(
        self, hub: FakeHub, pauses: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("whisper_npu.hub.remote.BACK_OFF", (1.0, 2.0, 4.0))
        hub.faults["api"] = 3 * [refuse(500)]
        snapshot()
        assert pauses == [1.0, 2.0, 4.0]

    def test_retry_after_seconds(self, hub: FakeHub, pauses: list[float]) -> None:
        hub.faults["api"] = [refuse(429, Retry_After="7")]
        snapshot()
        assert pauses == [7.0]

    @pytest.mark.parametrize("text", ["soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])
    def test_retry_after_nonsense(self, hub: FakeHub, pauses: list[float], text: str) -> None:
        hub.faults["api"] = [refuse(429, Retry_After=text)]
        snapshot()
        assert pauses == [0.0]

    def test_a_long_pause_is_left_to_the_user(self, hub: FakeHub, pauses: list[float]) -> None:
        hub.faults["api"] = [refuse(429, Retry_After="3600")]
        assert complaint().endswith("answers 429 and wants a pause of 3600 s; try again then")
        assert pauses == []


class TestAddresses:
    def test_redirects_without_end(self, hub: FakeHub) -> None:
        hub.faults["api"] = 99 * [redirect("/api/models/owner/nano/revision/main")]
        assert "redirects" in complaint()

    @pytest.mark.parametrize("to", ["file:///dev/null", "http://[", "gopher://a/"])
    def test_redirects_to_nowhere(self, hub: FakeHub, to: str) -> None:
        hub.faults["api"] = [redirect(to)]
        hub.faults["api"] *= 4
        assert complaint().startswith(f"{hub.endpoint}: cannot be reached: ")

    @pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://a", "https://", "file:///a"])
    def test_an_endpoint_that_is_none(self, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
        set_endpoint(monkeypatch, endpoint)
        with pytest.raises(OptionError, match="HF_ENDPOINT: must be like https://hug"):
            Hub()

    @pytest.mark.parametrize("set_to", [{}, {"HF_ENDPOINT": ""}])
    def test_the_endpoint_of_all(self, set_to: dict[str, str]) -> None:
        assert endpoint_of(set_to) == "https://huggingface.co"

    def test_an_endpoint_with_a_slash(self) -> None:
        assert endpoint_of({"HF_ENDPOINT": "http://a/b/"}) == "http://a/b"

    def test_a_proxy(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        set_endpoint(monkeypatch, "http://hub.invalid")
        monkeypatch.setenv("HTTP_PROXY", hub.endpoint)
        monkeypatch.setenv("http_proxy", hub.endpoint)
        snapshot()
        assert [host for host, *_ in hub.requests] == ["hub.invalid"]

    @pytest.mark.parametrize("status", [401, 404, 503])
    def test_a_password_is_not_shown(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, pauses: list[float], status: int
    ) -> None:
        set_endpoint(monkeypatch, hub.endpoint.replace("//", "//me:secret-1@"))
        hub.faults["api"] = 4 * [refuse(status)]
        said = complaint()
        assert hub.endpoint.partition("//")[2] in said
        assert "secret-1" not in said

    def test_a_password_of_what_is_no_endpoint_is_not_shown(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_endpoint(monkeypatch, "ftp://me:secret-1@host")
        with pytest.raises(OptionError) as caught:
            Hub()
        assert "secret-1" not in str(caught.value)

    def test_a_revision_with_a_slash(self, hub: FakeHub) -> None:
        complaint("refs/pr/1")
        assert hub.requests[0][1].endswith("/revision/refs%2Fpr%2F1")


class TestToken:
    def test_it_is_sent_to_the_hub(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
        snapshot()
        assert hub.asked("api")[0]["Authorization"] == "Bearer hf_secret"

    def test_none_is_sent_without_one(self, hub: FakeHub) -> None:
        snapshot()
        assert hub.asked("api")[0]["Authorization"] is None

    def test_it_may_be_in_a_file(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "token").write_text("hf_filed\n")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        snapshot()
        assert hub.asked("api")[0]["Authorization"] == "Bearer hf_filed"

    @pytest.mark.parametrize("token", ["a\tb", "é"])
    def test_tokens_that_are_none(self, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(OptionError, match="HF_TOKEN: holds characters that no token has"):
            Hub()
