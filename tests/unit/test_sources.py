"""Sources as Python programs have them: uploads, buffers, tensors, and files of any make."""

from __future__ import annotations

import array
import ctypes
import io
import mmap
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.audio_samples import encode
from tests.support.signals import noise
from whisper_npu.audio import AudioSource, load_audio
from whisper_npu.errors import AudioError

RATE = 16000
SAMPLES = noise(3 * RATE)
INT16 = np.round(SAMPLES * 32767).astype(np.int16)
WAV = encode(INT16, RATE, "WAV")
EXPECTED = INT16 / np.float32(32768)


class Reading:
    """A file object with nothing but ``read``, which gives at most ``most`` bytes."""

    def __init__(self, content: bytes = WAV, most: int = 1000) -> None:
        self._file, self._most = io.BytesIO(content), most

    def read(self, size: int = -1) -> Any:
        return self._file.read(min(size, self._most) if size >= 0 else self._most)


class Seeking(Reading):
    """One that can seek, but does not say where it is then."""

    def seek(self, offset: int, whence: int = 0) -> None:
        self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class AsyncUpload:
    """As starlette's ``UploadFile``."""

    filename = "meeting.wav"

    def __init__(self) -> None:
        self.file = io.BytesIO(WAV)

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    async def seek(self, offset: int) -> None:
        self.file.seek(offset)


class AsyncFile:
    name = "async.wav"

    async def read(self, size: int = -1) -> bytes:
        return WAV


class StorageOfForm:
    """As werkzeug's ``FileStorage``, whose attributes are those of its stream."""

    name, filename = "field", "call.wav"

    def __init__(self, content: bytes = WAV) -> None:
        self.stream = io.BytesIO(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class WithArray:
    """As the arrays and tensors of other libraries."""

    def __init__(self, samples: np.ndarray) -> None:
        self._samples = samples

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._samples


class WithInterface:
    def __init__(self, samples: np.ndarray) -> None:
        self._samples = samples

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._samples.__array_interface__


def in_memory_map() -> mmap.mmap:
    mapped = mmap.mmap(-1, len(WAV))
    mapped.write(WAV)
    return mapped


def in_ctypes() -> Any:
    return (ctypes.c_float * len(EXPECTED)).from_buffer_copy(EXPECTED.tobytes())


class Raw(io.RawIOBase):
    """Unbuffered: it reads less than it is asked for."""

    def __init__(self) -> None:
        self._file = io.BytesIO(WAV)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), 700))
        buffer[: len(data)] = data
        return len(data)


FILES: list[Callable[[], Any]] = [
    lambda: bytearray(WAV),
    lambda: memoryview(WAV),
    lambda: memoryview(b"junk" + WAV)[4:],
    lambda: memoryview(np.repeat(np.frombuffer(WAV, np.uint8), 2))[::2],
    lambda: array.array("B", WAV),
    lambda: (ctypes.c_char * len(WAV)).from_buffer_copy(WAV),
    in_memory_map,
    Reading,
    Seeking,
    Raw,
    AsyncUpload,
    StorageOfForm,
]
ARRAYS: list[Callable[[], Any]] = [
    lambda: memoryview(INT16),
    lambda: array.array("h", INT16.tobytes()),
    lambda: array.array("f", EXPECTED.tobytes()),
    in_ctypes,
    lambda: WithArray(EXPECTED),
    lambda: WithArray(EXPECTED.astype(np.float64)),
    lambda: WithInterface(INT16),
]
OF_NUMPY: list[Callable[[], np.ndarray]] = [
    lambda: np.repeat(INT16, 2)[::2],
    lambda: INT16[::-1][::-1],
    lambda: np.frombuffer(INT16.tobytes(), np.int16),  # read-only
    lambda: EXPECTED.astype(">f4"),
    lambda: EXPECTED.astype(np.longdouble),
    lambda: np.asfortranarray(np.stack([EXPECTED, EXPECTED], axis=1)),
    lambda: np.stack([EXPECTED, EXPECTED, EXPECTED], axis=1)[:, ::2],
    lambda: EXPECTED.view(np.recarray),
    lambda: np.ma.masked_array(EXPECTED),
    lambda: EXPECTED[:, None].view(np.matrix),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [*FILES, *ARRAYS, *OF_NUMPY])
def test_sources(make: Callable[[], AudioSource]) -> None:
    np.testing.assert_array_equal(load_audio(make()), EXPECTED)


def test_a_file_object_stays_open() -> None:
    class Closing(Seeking):
        closed = False

        def close(self) -> None:
            self.closed = True

    source = Closing()
    load_audio(source)
    load_audio(source)
    assert not source.closed


@pytest.mark.parametrize("mode", ["rb", "rb+"])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_open_files(tmp_path: Path, mode: str, buffering: int) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(WAV)
    with open(path, mode, buffering=buffering) as file:
        np.testing.assert_array_equal(load_audio(file), EXPECTED)
        assert not file.closed
    with tempfile.NamedTemporaryFile() as named:
        named.write(WAV)
        np.testing.assert_array_equal(load_audio(named), EXPECTED)


class TestTensors:
    def test_anywhere(self) -> None:
        torch = pytest.importorskip("torch")
        tensor = torch.tensor(EXPECTED)
        for each in (tensor, tensor.double(), tensor.clone().requires_grad_()):
            np.testing.assert_array_equal(load_audio(each), EXPECTED)
        np.testing.assert_array_equal(load_audio(torch.tensor(INT16)), EXPECTED)

    def test_of_a_type_that_numpy_has_not(self) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(AudioError, match=r"^Tensor: cannot be read \(.*BFloat16\)$"):
            load_audio(torch.zeros(16, dtype=torch.bfloat16))

    @pytest.mark.parametrize("channels", [1, 2, 8])
    def test_channels_first(self, channels: int) -> None:
        """PyTorch's order is seen where the other cannot be meant, and told."""
        samples = noise(channels * 1000).reshape(1000, channels)
        message = rf"^array: its shape \({channels}, 1000\) is taken for \[channels, n\]; give its"
        with pytest.warns(UserWarning, match=message):
            result = load_audio(samples.T)
        np.testing.assert_array_equal(result, load_audio(samples))

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("shape", [(1, 8), (8, 8), (9, 9), (9, 1000), (0, 9)])
    def test_channels_last(self, shape: tuple[int, int]) -> None:
        assert len(load_audio(np.zeros(shape, np.float32))) == shape[0]


class TestFailing:
    def fails(self, source: Any, message: str) -> None:
        with pytest.raises(AudioError) as caught:
            load_audio(source)
        assert str(caught.value) == message

    def test_closed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.wav"
        path.write_bytes(WAV)
        with open(path, "rb") as file, open(path, "rb", buffering=0) as raw:
            pass
        storage, mapped, content = StorageOfForm(), in_memory_map(), io.BytesIO(WAV)
        storage.stream.close()
        mapped.close()
        content.close()
        view = memoryview(WAV)
        view.release()
        for source, name in (
            (file, str(path)),
            (raw, str(path)),
            (storage, "call.wav"),
            (mapped, "file object"),
            (content, "file object"),
            (view, "memoryview"),
        ):
            with pytest.raises(AudioError) as caught:
                load_audio(source)  # type: ignore[arg-type]
            message = str(caught.value)
            assert message.startswith(f"{name}: cannot be read (")
            assert any(word in message for word in ("closed", "released"))
            assert "\n" not in message

    def test_text(self) -> None:
        self.fails(
            io.StringIO("RIFF"), "file object: is open in text mode; open it in binary mode ('rb')"
        )
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write("RIFF")
            file.seek(0)
            self.fails(
                file,
                f"{file.name}: cannot be read (its read() gives str, not bytes; open it in binary "
                "mode)",
            )

    @pytest.mark.parametrize(
        ("result", "reason"),
        [
            ("RIFF", "its read() gives str, not bytes; open it in binary mode"),
            (None, "its read() gives NoneType, not bytes"),
            ([1, 2], "its read() gives list, not bytes"),
            (bytes(10**6), "its read() gives more bytes than it is asked for"),
        ],
    )
    @pytest.mark.parametrize("kind", [Reading, Seeking])
    def test_what_read_gives(
        self,
        kind: type[Reading],
        result: Any,
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(kind, "read", lambda self, size: result)
        self.fails(kind(), f"file object: cannot be read ({reason})")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (OSError(5, "Input/output error"), "Input/output error"),
            (RuntimeError("connection\nlost"), "connection lost"),
            (RuntimeError(), "RuntimeError"),
            (ZeroDivisionError("division by zero"), "division by zero"),
        ],
    )
    @pytest.mark.parametrize("after", [0, 20000])
    @pytest.mark.parametrize("kind", [Reading, Seeking])
    def test_what_read_raises(
        self, kind: type[Reading], after: int, error: Exception, reason: str
    ) -> None:
        class Failing(kind):  # type: ignore[misc, valid-type]
            filename = "upload.wav"

            def read(self, size: int = -1) -> Any:
                if self._file.tell() >= after:
                    raise error
                return super().read(size)

        self.fails(Failing(), f"upload.wav: cannot be read ({reason})")

    def test_asynchronous(self) -> None:
        self.fails(
            AsyncFile(),
            "async.wav: its read() is asynchronous; give what it returns: await read()",
        )

    def test_empty(self) -> None:
        self.fails(Reading(b""), "file object: is empty (0 bytes); give an audio file")
        self.fails(bytearray(), "bytearray: is empty (0 bytes); give an audio file")

    def test_arrays_that_cannot_be_had(self) -> None:
        class Broken:
            def __array__(self, *_: Any, **__: Any) -> np.ndarray:
                raise RuntimeError("on another\ndevice")

        self.fails(Broken(), "Broken: cannot be read (on another device)")
        self.fails(
            np.ma.masked_greater(EXPECTED, 0.1),
            "array: some of its samples are masked; fill them, with 0 for silence",
        )

    @pytest.mark.parametrize("source", [None, 7, 0.5, [0.0, 0.5], ("a.wav",), {}, object()])
    def test_nothing_to_read(self, source: Any) -> None:
        self.fails(
            source,
            f"cannot read audio from a {type(source).__name__}; give a path, bytes, a file open in "
            "binary mode or a NumPy array",
        )

    def test_no_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for stdin in (None, io.StringIO()):
            monkeypatch.setattr("sys.stdin", stdin)
            self.fails("-", "standard input: is closed or not binary; give a path")
