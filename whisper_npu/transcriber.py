"""The public door: load a model once, transcribe many recordings."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_npu.audio import AudioSource, stream_audio
from whisper_npu.audio.channels import channel_labels
from whisper_npu.audio.features import LogMel, compute_log_mel, compute_log_mels
from whisper_npu.audio.stream import stream_channels
from whisper_npu.backends.machine_options import Check, MachineOptions
from whisper_npu.backends.opening import open_device, open_machine
from whisper_npu.decoding.channels import ChannelsTranscript, transcribe_channels
from whisper_npu.decoding.engine import Engine, Recording
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.decoding.timing import alignment_heads
from whisper_npu.decoding.windows import Transcript, transcribe_windows
from whisper_npu.errors import OptionError
from whisper_npu.hub.folders import BUILT_IN, built_in_directory, model_directory
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.folder import has_safetensors
from whisper_npu.ops.arrays import F32, I16
from whisper_npu.results import Placement, Transcription
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.workers import use_threads
from whisper_npu.streams import SegmentStream
from whisper_npu.text.tokenizer import Tokenizer
from whisper_npu.values import EACH_CHANNEL

if TYPE_CHECKING:
    from whisper_npu.async_streams import AsyncSegmentStream
    from whisper_npu.backends.npu.device import Device

_DEFAULTS = MachineOptions()


class Transcriber:
    """A Whisper model, loaded.

    ``model`` is a folder in Hugging Face's layout, the name of a model that was pulled, a
    repository ``owner/name`` in the Hugging Face cache, or ``"demo"``, the built-in one. Models
    that ``convert`` reads (a .pt or ggml file, a CTranslate2 folder, pytorch_model.bin) are
    converted into the cache when they are first used, with a warning; tensors stay as they are
    stored. Raises ModelError if it cannot be loaded. A transcriber may be used by any number of
    threads: windows of all recordings that are under way are decoded side by side, and each result
    is the one that the recording has on its own.

    ``device`` is ``"cpu"``, ``"npu"``, ``"auto"`` (the NPU where there is one and it is predicted
    to be faster), or an open ``whisper_npu.backends.npu.device.Device``. ``precision`` is that of
    products with weights: ``"float32"``, for which int8 weights are dequantised once; ``"int8"``,
    the integer arithmetic of the NPU, which NumPy carries out exactly where no kernel does; or
    ``"auto"``: int8 on a device, for a model that was converted for int8, which has no floats, and
    else where the model's weights are INT8 and CPU kernels are verified for an instruction set on
    which int8 was measured to be faster; float32 in all other cases.
    ``Placement.precision_reason`` says why. ``kernels`` are folders with kernels of your
    own. Raises KernelError if ops that were asked to be on the NPU cannot be, unless
    ``allow_fallback``. ``check`` is ``"full"``, to prove each product of a device by checksums, or
    ``"sample"``. ``check_rate`` is the share of launches that NumPy recomputes and compares.
    ``cpu_kernels`` says whether to use the kernels compiled for this CPU; if not given, they are
    used if they are there and verified. ``threads`` is the number
    that NumPy's products, workers and CPU kernels compute with. There is one for the process: the
    last transcriber that names it decides for those made after it. By default it is that of the
    physical cores, or what ``OMP_NUM_THREADS`` says. Raises OptionError for values that an option
    does not take.

    ``pickle`` and ``copy`` keep what a transcriber was made of, and load the model again. A child
    process that was forked can use one as it is, but not its NPU.
    """

    def __init__(
        self,
        model: str | Path = BUILT_IN,
        *,
        device: str | Device = _DEFAULTS.device,
        precision: str = _DEFAULTS.precision,
        kernels: Sequence[str | PathLike[str]] = _DEFAULTS.kernels,
        allow_fallback: bool = _DEFAULTS.allow_fallback,
        check: Check = _DEFAULTS.check,
        check_rate: float = _DEFAULTS.check_rate,
        cpu_kernels: bool | None = _DEFAULTS.cpu_kernels,
        threads: int | None = _DEFAULTS.threads,
    ) -> None:
        options = MachineOptions(
            device=device,
            precision=precision,
            kernels=kernels,
            allow_fallback=allow_fallback,
            check=check,
            check_rate=check_rate,
            cpu_kernels=cpu_kernels,
            threads=threads,
        )
        self._load(model, options)

    @classmethod
    def from_options(cls, model: str | Path, options: MachineOptions) -> Transcriber:
        """A transcriber whose keywords were checked before."""
        transcriber = cls.__new__(cls)
        transcriber._load(model, options)
        return transcriber

    def _load(self, model: str | Path, options: MachineOptions) -> None:
        device = options.device
        if options.threads is not None:
            use_threads(options.threads)
        opened = open_device(device) if isinstance(device, str) else device
        # A device that was given is its owner's.
        own = opened if isinstance(device, str) else None
        with ExitStack() as undo:
            if own is not None:
                undo.callback(own.close)
            folder = model_directory(model)
            # What it is made of again in another process, wherever that runs.
            self._made_of = (folder.absolute() if folder == Path(model) else model), options
            checkpoint = load_checkpoint(_loadable(folder))
            self.dims = checkpoint.dims
            self._tokenizer = Tokenizer.from_dir(
                checkpoint.path, checkpoint.dims.n_vocab, checkpoint.generation
            )
            self._heads = alignment_heads(checkpoint.generation, checkpoint.dims)
            machine = open_machine(
                opened,
                checkpoint.dims,
                options,
                int8_weights=checkpoint.has_int8_weights,
                only_int8=checkpoint.has_only_integers,
            )
            again = checkpoint.is_quantized_again and machine.usage.precision == "int8"
            # There is no other built-in model.
            if again and folder != built_in_directory():
                warnings.warn(
                    f"{folder}: its int8 weights, which are not of precision int8, are quantised "
                    "a second time; to convert the model again from its floats is more accurate",
                    stacklevel=2,
                )
            for backend in machine.backends:
                undo.callback(backend.close)
            self._model = Model(checkpoint, machine.usage.precision, machine)
            undo.pop_all()
        self._engine = Engine(self._model)
        # Contexts and buffers of an NPU cannot wait for the garbage collector, to which they are
        # small objects.
        self._give_back = weakref.finalize(
            self, self._engine.later, partial(_give_back, self._model, own)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by what it was made of: the copy loads the model again.

        Raises OptionError if it was given an open device.
        """
        if not isinstance(self._made_of[1].device, str):
            raise OptionError(
                "device: a transcriber on a device that was opened for it can be neither pickled "
                "nor copied; make one in each process, or name the device, as device='npu'"
            )
        return type(self).from_options, self._made_of

    def close(self) -> None:
        """Give back the NPU, as happens with the transcriber's end, and what is on it.

        What is transcribed afterwards runs on NumPy, and so does the rest of what another thread
        transcribes meanwhile.
        """
        self._give_back()
        if not self._engine.reentered:
            # Until it has been done.
            self._engine.call(_nothing)

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transcribe(
        self,
        audio: AudioSource,
        options: TranscribeOptions | None = None,
        *,
        sampling_rate: int | None = None,
        priority: int = 0,
        **keywords: Any,
    ) -> Transcription:
        """Transcribe a recording.

        ``audio`` is a path, ``"-"`` for standard input, bytes, a file object or upload, or an array
        or tensor with its ``sampling_rate`` in Hz (default 16000): see
        ``whisper_npu.audio.stream_audio``. Keywords are those of openai-whisper's
        ``transcribe()``, with its defaults, but for ``verbose`` and ``fp16``, and some more, of
        which ``TranscribeOptions`` tells: ``seed``, ``channel``, ``audio_track``, and
        ``batch_size``, the number of windows that are decoded side by side, each without text from
        before it. Such an object may be given in the place of keywords. Windows of a recording of
        higher ``priority`` go before those of others; above 0, for live audio, they do not wait for
        a place either. Raises AudioError and OptionError.
        """
        stream = self.segments(
            audio, options, sampling_rate=sampling_rate, priority=priority, **keywords
        )
        for _ in stream:
            pass
        return stream.result()

    def segments(
        self,
        audio: AudioSource,
        options: TranscribeOptions | None = None,
        *,
        sampling_rate: int | None = None,
        priority: int = 0,
        **keywords: Any,
    ) -> SegmentStream:
        """As ``transcribe``, but an iterator that gives each segment as soon as it is decoded."""
        checked = _options(options, priority, keywords)
        return self._stream(self._engine.open(priority), audio, checked, sampling_rate)

    async def atranscribe(
        self,
        audio: AudioSource,
        options: TranscribeOptions | None = None,
        *,
        sampling_rate: int | None = None,
        priority: int = 0,
        **keywords: Any,
    ) -> Transcription:
        """``transcribe`` for asyncio: what is awaited runs in a thread.

        As many recordings as are decoded side by side are under way at a time, twice; of priority
        0, others wait. When the task is cancelled, the recording leaves the batch within a step.
        """
        stream = self.asegments(
            audio, options, sampling_rate=sampling_rate, priority=priority, **keywords
        )
        async with stream:
            async for _ in stream:
                pass
            return await stream.result()

    def asegments(
        self,
        audio: AudioSource,
        options: TranscribeOptions | None = None,
        *,
        sampling_rate: int | None = None,
        priority: int = 0,
        **keywords: Any,
    ) -> AsyncSegmentStream:
        """``segments`` for asyncio: ``async for segment in transcriber.asegments(audio)``.

        It begins with the first segment that is asked for. Whoever does not take all of them should
        leave it with ``await stream.aclose()``, or use ``async with``.
        """
        # Imported here, as asyncio takes longer to load than all of this package.
        from whisper_npu.async_streams import AsyncSegmentStream

        checked = _options(options, priority, keywords)

        def begin(recording: Recording) -> SegmentStream:
            return self._stream(recording, audio, checked, sampling_rate)

        return AsyncSegmentStream(self._engine, begin, priority)

    def _stream(
        self,
        recording: Recording,
        audio: AudioSource,
        options: TranscribeOptions,
        sampling_rate: int | None,
    ) -> SegmentStream:
        """A recording that was opened, with its features computed and its language known."""
        n_mels, precision = self.dims.n_mels, self._model.precision

        def log_mel(samples: F32) -> F32 | I16:  # [160 (t - 1) + 400] -> [n_mels, t]
            return recording.call(partial(self._model.log_mel, samples))

        with ExitStack() as undo:
            undo.callback(recording.close)
            if options.channel == EACH_CHANNEL:
                channels = stream_channels(
                    audio, sampling_rate=sampling_rate, audio_track=options.audio_track
                )
                features = compute_log_mels(channels, n_mels, log_mel, precision)
            else:
                mono = stream_audio(
                    audio,
                    sampling_rate=sampling_rate,
                    channel=options.channel,
                    audio_track=options.audio_track,
                )
                features = [compute_log_mel(mono, n_mels, log_mel, precision)]
            for each in features:
                undo.callback(each.close)
            transcript = self._begin(recording, features, options)
            placement = partial(_placement, self, recording)
            return SegmentStream(transcript, features[0].duration, placement, undo.pop_all())

    def _begin(
        self, recording: Recording, features: Sequence[LogMel], options: TranscribeOptions
    ) -> Transcript | ChannelsTranscript:
        tokenizer, heads = self._tokenizer, self._heads
        if options.channel != EACH_CHANNEL:
            return transcribe_windows(recording, tokenizer, features[0], options, heads)
        labelled = list(zip(channel_labels(len(features)), features, strict=True))
        # In silence a model hears what it likes.
        heard = [found for found in labelled if not found[1].is_silent] or labelled[:1]
        return transcribe_channels(recording, tokenizer, dict(heard), options, heads)


def _options(
    options: TranscribeOptions | None, priority: object, keywords: Mapping[str, Any]
) -> TranscribeOptions:
    """Options that were given as an object or as keywords. Raises OptionError, also for a priority
    that is no whole number."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise OptionError(f"priority: must be a whole number, not {priority!r}")
    if options is None:
        return TranscribeOptions.from_keywords(**keywords)
    if keywords:
        raise OptionError(f"{next(iter(keywords))}: cannot be given together with options")
    return options


def _placement(transcriber: Transcriber, recording: Recording) -> Placement:
    """Where the ops of a recording ran. With the transcriber it keeps the NPU."""
    return transcriber._model.machine.usage.placement(recording.counts_so_far())


def _loadable(model: Path) -> Path:
    """The folder that is loaded for a model: its own, or what it is converted to."""
    if has_safetensors(model):
        return model
    # Imported here, as most models need no conversion.
    from whisper_npu.convert.kept import converted_folder

    return converted_folder(model)


def _nothing() -> None:
    pass


def _give_back(model: Model, device: Device | None) -> None:
    for backend in model.machine.backends:
        backend.close()
    model.release()
    if device is not None:
        device.close()
