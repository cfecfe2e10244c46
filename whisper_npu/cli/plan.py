"""``whisper-npu plan``: where every op of a model would run, why, and what that would cost."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from whisper_npu.backends.machine_options import (
    AUTO,
    CPU,
    NPU,
    PHOENIX,
    SOFTWARE,
)
from whisper_npu.cli.dimensions import dimensions_of, has_int8_weights, has_only_integers
from whisper_npu.cli.machine import CPU_KERNELS
from whisper_npu.cli.options import add_format, add_kernels, add_options, as_options
from whisper_npu.cli.process import say
from whisper_npu.model.builders import (
    PHASES,
    TOKEN_PHASES,
    WINDOW_PHASES,
)
from whisper_npu.model.precision import PRECISIONS

if TYPE_CHECKING:
    from whisper_npu.model.graph import Graph
    from whisper_npu.runtime.placement import Forms, PlacedOp

DEVICES = (CPU, NPU, PHOENIX, SOFTWARE)
_COLUMNS = "{:<10} {:<24} {:<16} {:<20} {:>3} {:>11} {:>11} {:>12} {:>9}  {:<45} {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--model", required=True, help="a model folder, demo, or the name of a published size"
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default=CPU,
        help="cpu, the npu of this machine, or phoenix: one as described by published figures, "
        "all of whose kernels are taken to be verified",
    )
    parser.add_argument(
        "--policy",
        choices=("auto", "npu"),
        default="auto",
        help="a kernel where it is faster, or wherever there is one",
    )
    add_kernels(parser)
    parser.add_argument(
        "--precision",
        choices=(AUTO, *PRECISIONS),
        default=AUTO,
        help="of products with weights; auto: what transcribe would choose, for a published size "
        "with INT8 weights",
    )
    add_options(parser, (CPU_KERNELS,))
    parser.add_argument("--phase", choices=PHASES, help="one phase only; if not given, all")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan on stdout."""
    from whisper_npu.backends.npu.kernel_rates import physical_limits
    from whisper_npu.backends.opening import describe_machine
    from whisper_npu.runtime.model import phase_graphs
    from whisper_npu.runtime.placement import placed_ops

    with as_options():
        dims = dimensions_of(args.model)
        machine, rates = describe_machine(
            args.device,
            args.precision,
            args.policy,
            args.kernels,
            args.cpu_kernels,
            int8_weights=has_int8_weights(args.model),
            only_int8=has_only_integers(args.model),
        )
    precision = machine.usage.precision
    graphs = phase_graphs(dims, precision)
    forms = machine.settle(graphs)
    placed = [
        op
        for graph in graphs
        if args.phase in (None, graph.name)
        for op in placed_ops(machine.place(graph, forms).regions)
    ]
    report = {
        "model": args.model,
        "device": args.device,
        "policy": args.policy,
        "precision": precision,
        "precision_reason": machine.usage.precision_reason,
        "rates": rates,
        "ops": [op._asdict() for op in placed],
        "totals": {
            "window": _totals(op for op in placed if op.phase in WINDOW_PHASES),
            "token": _totals(op for op in placed if op.phase in TOKEN_PHASES),
        },
        # Of a weight that two kernels read there is one copy for each.
        "resident_bytes": sum(
            {(op.backend, op.weight): op.resident_bytes for op in placed}.values()
        ),
        "weights": _weights(graphs, forms),
        "limits": physical_limits(dims),
    }
    if args.format == "json":
        say(json.dumps(report, indent=2))
    else:
        say("\n".join(_text(placed, report)))
    return 0


def _weights(graphs: Iterable[Graph], forms: Forms) -> dict[str, Any]:
    """Bytes of all weights by form, and the weights that are held in more than one."""
    from whisper_npu.runtime.placement import form_bytes

    shapes = {tensor.name: tensor.shape for graph in graphs for tensor in graph.role("weight")}
    counts: Counter[str] = Counter()
    for name, held in forms.weights.items():
        for form in held:
            counts[str(form)] += form_bytes(shapes[name], form)
    several = {n: [str(form) for form in held] for n, held in forms.weights.items() if held[1:]}
    return {"bytes": dict(counts), "in_several_forms": several}


def _totals(ops: Iterable[PlacedOp]) -> dict[str, float]:
    listed = list(ops)
    totals: dict[str, float] = {
        name: sum(getattr(op, name) for op in listed)
        for name in ("launches", "bytes_in", "bytes_out", "seconds")
    }
    return {"ops": len(listed), **totals}


def _text(placed: Iterable[PlacedOp], report: Mapping[str, Any]) -> Iterator[str]:
    yield _COLUMNS.format(
        "phase",
        "op",
        "kind",
        "placement",
        "n",
        "bytes in",
        "bytes out",
        "resident",
        "ms",
        "function",
        "reason",
    )
    for op in placed:
        yield _COLUMNS.format(
            op.phase, op.op, op.kind, op.backend, op.launches, f"{op.bytes_in:,}",
            f"{op.bytes_out:,}", f"{op.resident_bytes:,}", f"{op.seconds * 1e3:.3f}",
            op.function, op.reason,
        )  # fmt: skip
    for what, totals in report["totals"].items():
        yield (
            f"per {what}: {totals['ops']} ops, {totals['launches']} launches, "
            f"{totals['bytes_in']:,} bytes in, {totals['bytes_out']:,} bytes out, "
            f"predicted {totals['seconds'] * 1e3:.1f} ms"
        )
    weights = report["weights"]
    held = [f"{count:,} bytes as {form}" for form, count in weights["bytes"].items()]
    several = [f"{n} as {' and '.join(f)}" for n, f in weights["in_several_forms"].items()]
    yield "; ".join(
        [
            f"resident weights: {report['resident_bytes']:,} bytes",
            f"held: {', '.join(held)}",
            *([f"more than once: {', '.join(several)}"] if several else []),
        ]
    )
    yield f"precision: {report['precision']} ({report['precision_reason']})"
    yield from report["rates"]
    for name, seconds in report["limits"].items():
        yield f"limit, {name}: {seconds * 1e3:.1f} ms"
