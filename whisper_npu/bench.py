"""How fast a model is on this machine: the stages of a 30-second window, and their ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import median
from time import perf_counter

from whisper_npu.audio import CHUNK_LENGTH
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.model.graph import Graph
from whisper_npu.ops.arrays import F32
from whisper_npu.results import Fallback, Saturation
from whisper_npu.runtime.model import Model, phase_graphs
from whisper_npu.runtime.placement import PlacedGraph
from whisper_npu.runtime.profile import OpTime, Profile
from whisper_npu.runtime.workers import kernel_threads
from whisper_npu.transcriber import Transcriber

BEAMS = 5
# English speech at 150 words a minute is 75 words in 30 s: some 90 tokens, and timestamps.
TOKENS_PER_WINDOW = 100
# Tokens that are decoded in each run.
_TOKENS = 32

# Of each stage the seconds of all times that it ran.
Seconds = dict[str, list[float]]
Placed = tuple[Graph, PlacedGraph]

# Key -> what a reader is told.
STAGES: Mapping[str, str] = {
    "load": "load the model (files in the page cache)",
    "mel": "log-mel spectrogram of a window",
    "encoder": "encoder, a window",
    "cross_kv": "cross keys and values, a window",
    "prefill": "prompt, a window",
    "token_greedy": "one token, greedy",
    "token_beams": f"one token, {BEAMS} beams",
}


@dataclass(frozen=True)
class PlacedCount:
    """How many ops of a phase ran on a kernel of a backend."""

    phase: str
    backend: str
    kernel: str
    ops: int


@dataclass(frozen=True)
class PhaseProfile:
    """A phase op by op.

    ``seconds`` are its median, ``seconds_timed`` that with every region timed, ``seconds_in_ops``
    what the regions take of that.
    """

    phase: str
    seconds: float
    seconds_timed: float
    seconds_in_ops: float
    ops: tuple[OpTime, ...]


@dataclass(frozen=True)
class Report:
    """What ``measure`` found. Seconds are medians over the runs; ``seconds`` has the keys of
    ``STAGES``. ``device`` is None for the CPU alone, ``instruction_set`` is that of the CPU
    kernels, None if none are used."""

    device: str | None
    precision: str
    precision_reason: str
    threads: int
    instruction_set: str | None
    repeats: int
    prompt_tokens: int
    seconds: Mapping[str, float]
    placement: tuple[PlacedCount, ...]
    fallbacks: tuple[Fallback, ...]
    saturations: tuple[Saturation, ...]
    profile: tuple[PhaseProfile, ...]

    def window_seconds(self, token: str) -> float:
        """Seconds of a window with ``TOKENS_PER_WINDOW`` tokens; ``token`` is a key of
        ``seconds``."""
        once = sum(self.seconds[stage] for stage in ("mel", "encoder", "cross_kv", "prefill"))
        return once + TOKENS_PER_WINDOW * self.seconds[token]

    def real_time(self, token: str) -> float:
        """How many times faster than it is spoken such a window is transcribed."""
        return CHUNK_LENGTH / self.window_seconds(token)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            **asdict(self),
            "beams": BEAMS,
            "tokens_per_window": TOKENS_PER_WINDOW,
            "real_time": {
                "greedy": self.real_time("token_greedy"),
                "beams": self.real_time("token_beams"),
            },
        }


def measure(
    load: Callable[[], Transcriber], audio: F32, repeats: int, profile: bool = False
) -> Report:  # [up to 480000]
    """Load a model ``repeats`` times and run a window as often, each once more to warm up.

    ``load`` opens the model. With ``profile`` the encoder and the greedy step are run again with
    every region timed. Raises what ``load`` raises.
    """
    transcriber, loading = _load(load, repeats)
    with transcriber:
        # The transcriber has no public door to the phases.
        model, tokenizer = transcriber._model, transcriber._tokenizer
        window = _Window(model, tokenizer.sot_sequence, audio)
        seconds = _medians([window.run() for _ in range(repeats + 1)][1:])
        placed = _placed(model)
        usage = model.machine.usage
        return Report(
            device=usage.device,
            precision=usage.precision,
            precision_reason=usage.precision_reason,
            threads=kernel_threads(),
            instruction_set=usage.instruction_set,
            repeats=repeats,
            prompt_tokens=len(window.prompt),
            seconds={
                "load": median(loading),
                "mel": seconds["mel"],
                "encoder": seconds["encoder"],
                "cross_kv": seconds["cross_kv"],
                "prefill": seconds["prefill_greedy"],
                "token_greedy": seconds["token_greedy"],
                "token_beams": seconds["token_beams"],
            },
            placement=tuple(_counts(placed)),
            profile=_profiles(window, placed, seconds, repeats) if profile else (),
            fallbacks=tuple(usage.fallbacks),
            saturations=usage.placement(usage.counts).saturations,
        )


def _load(load: Callable[[], Transcriber], repeats: int) -> tuple[Transcriber, list[float]]:
    loading = []
    for run in range(repeats + 1):
        began = perf_counter()
        transcriber = load()
        loading.append(perf_counter() - began)
        if run < repeats:
            # One at a time: a device has few contexts, and memory is for one model.
            transcriber.close()
            del transcriber
    return transcriber, loading[1:]


class _Window:
    """A window, which can be run again and again."""

    def __init__(self, model: Model, prompt: Sequence[int], audio: F32) -> None:
        self.model, self.prompt, self._audio = model, list(prompt), audio
        self._tokens = min(_TOKENS, model.dims.n_text_ctx - len(self.prompt))

    def run(self, encoder: Profile | None = None, step: Profile | None = None) -> Seconds:
        """Seconds by stage, of tokens with the choice of the next one and without it (step).

        The encoder and the greedy steps are observed where that is asked for.
        """
        found: Seconds = {}
        with _timed(found, "mel"):
            spectrum = compute_log_mel(
                [self._audio], self.model.dims.n_mels, self.model.log_mel, self.model.precision
            )
            with spectrum:
                features = spectrum.window(0)[None]
        with _timed(found, "encoder", encoder):
            states = self.model.encode(features, encoder)
        # These states are new: their keys and values are computed here, and only here.
        with _timed(found, "cross_kv"):
            self.model.decoder(states, BEAMS)
        self._decode(states, BEAMS, found, "beams")
        self._decode(states, 1, found, "greedy", step)
        return found

    def _decode(
        self, states: F32, group: int, found: Seconds, search: str, profile: Profile | None = None
    ) -> None:
        session = self.model.decoder(states, group)
        with _timed(found, f"prefill_{search}"):
            logits = session.prefill([self.prompt], [0, len(self.prompt) - 1])[:, -1]
        tokens = logits.argmax(-1).repeat(group)
        # A search by beams looks at one token more than it has beams.
        choices = 1 if group == 1 else group + 1
        for _ in range(self._tokens):
            with _timed(found, f"token_{search}"):
                with _timed(found, f"step_{search}", profile):
                    logits = session.step(tokens, profile)
                tokens = session.likeliest(logits, choices)[0][:, 0]


@contextmanager
def _timed(found: Seconds, stage: str, profile: Profile | None = None) -> Iterator[None]:
    """Add what the block takes to the seconds of a stage."""
    if profile is not None:
        profile.begin()
    began = perf_counter()
    yield
    found.setdefault(stage, []).append(perf_counter() - began)


def _profiles(
    window: _Window, placed: Mapping[str, Placed], usual: Mapping[str, float], repeats: int
) -> tuple[PhaseProfile, ...]:
    """Of the encoder and of the greedy step; ``usual`` are their seconds when nobody looks."""
    profiles = {phase: Profile(*placed[phase]) for phase in ("encoder", "step")}
    runs = [window.run(profiles["encoder"], profiles["step"]) for _ in range(repeats)]
    stages = {"encoder": "encoder", "step": "step_greedy"}
    timed = _medians(runs)
    return tuple(
        PhaseProfile(
            phase, usual[stage], timed[stage], profiles[phase].seconds, profiles[phase].times()
        )
        for phase, stage in stages.items()
    )


def _medians(runs: Sequence[Seconds]) -> dict[str, float]:
    return {stage: median(chain.from_iterable(run[stage] for run in runs)) for stage in runs[0]}


def _placed(model: Model) -> dict[str, Placed]:
    """The graph of each phase with its placement, as the plans of the model carry it out."""
    graphs = phase_graphs(model.dims, model.precision)
    forms = model.machine.settle(graphs)
    return {graph.name: (graph, model.machine.place(graph, forms)) for graph in graphs}


def _counts(placed: Mapping[str, Placed]) -> Iterator[PlacedCount]:
    for phase, (_, each) in placed.items():
        counts = Counter(
            (region.offer.backend, region.offer.kernel)
            for region in each.regions
            for _ in region.ops
        )
        for (backend, kernel), ops in counts.most_common():
            yield PlacedCount(phase, backend, kernel, ops)
