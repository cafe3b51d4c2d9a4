"""Where the time of profiled steps went: read from a Chrome trace of torch.profiler, as a table.

The trace holds *spans* of the CPU (operations, and the phases that profiler.py marks), nested by
time within a thread, and on a GPU the kernels that they launched. The self time of a span is its
own without that of the spans inside it, so the self times add up to the time of the steps. With a
GPU the times are those of its kernels, each counted for the operation that launched it; a kernel
belongs to the phase in which it was launched, on whichever thread of autograd.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from sharpgpt.core.numbers import counted

PHASES = (
    "data", "forward", "loss", "backward", "clip", "check", "optimizer", "logging",
    "validation", "samples", "checkpoint",
)  # fmt: skip
"""The parts of a step, in order: `loss` is inside `forward`, and `check` waits for the device."""

STEP = re.compile(r"step \d+")
FUSED_LOSS = "sharpgpt::linear_sharpness"
LOSS, DATA, OPTIMIZER, AFTER, REST = (
    "loss", "data", "optimizer and clipping", "after the step", "the rest",
)  # fmt: skip
BETWEEN = "between the phases"
PYTHON = "Python, between operations"
IDLE = "GPU idle"
NUM_ROWS = 40
"""Operations in the table; one more row has what the others take together."""

ATTENTION = re.compile(r"scaled_?dot_?product|attention|flash_|fmha", re.IGNORECASE)
GROUPS = {
    "matrix products": r"^aten::(addmm|mm|bmm|baddbmm|matmul|linear|mv|dot|_int_mm)\b"
    r"|gemm|cutlass|nvjet|_linear_pointwise",
    "communication": r"c10d|nccl|gloo|all_?reduce|DistributedDataParallel",
    REST: r"^aten::(view|reshape|_reshape_alias|transpose|t|as_strided|expand|permute|empty\w*"
    r"|slice|select|split|unbind|detach|squeeze|unsqueeze|_unsafe_view|alias|narrow|result_type)$",
    "element-wise": r"^aten::|^triton|^cpp_|Call Compiled|Memcpy|Memset|elementwise|layer_norm",
}
"""Of operations in the forward and backward pass: the first pattern that is in the name."""


@dataclass(eq=False, slots=True)
class Span:
    """One event of a thread of the CPU; times in microseconds."""

    name: str
    start: float
    end: float
    is_mark: bool
    parent: "Span | None" = None
    inside: float = 0.0
    """The time of the spans directly inside it."""

    @property
    def self_time(self) -> float:
        """Its time without those inside it."""
        return max(0.0, self.end - self.start - self.inside)

    def lineage(self) -> Iterator["Span"]:
        """Itself, then those around it, the nearest one first."""
        span: Span | None = self
        while span is not None:
            yield span
            span = span.parent


@dataclass
class StepTimes:
    """Microseconds of all profiled steps together."""

    num_steps: int
    wall: float
    """By the clock."""
    on_gpu: bool = False
    """The other times are those of kernels."""
    phases: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operations: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """(group, operation) -> self time and calls."""

    def add(self, group: str, operation: str, time: float) -> None:
        """One call of an operation."""
        row = self.operations.setdefault((group, operation), [0.0, 0])
        row[0] += time
        row[1] += 1

    def groups(self) -> dict[str, float]:
        """Self time by group."""
        groups = defaultdict[str, float](float)
        for (group, _), (time, _) in self.operations.items():
            groups[group] += time
        return groups


Thread = tuple[Any, Any]


def step_times(events: Sequence[Mapping[str, Any]], is_complete: Sequence[bool]) -> StepTimes:
    """The times of the complete steps in `traceEvents`; `is_complete` has one value for each step.

    Raises ValueError for a trace without a complete step.
    """
    threads = _threads(events)
    marks = [
        (span, thread)
        for thread, spans in threads.items()
        for span in spans
        if span.is_mark and STEP.fullmatch(span.name)
    ]
    marks.sort(key=lambda mark: mark[0].start)
    kept = [mark for mark, is_kept in zip(marks, is_complete, strict=False) if is_kept]
    if not kept:
        raise ValueError("the trace has no complete step")
    steps = {step for step, _ in kept}
    main = threads[kept[0][1]]
    times = StepTimes(len(steps), wall=sum(step.end - step.start for step in steps))
    kernels = [event for event in events if event.get("cat") in _KERNELS]
    if kernels:
        launches = {
            event["args"]["correlation"]: event
            for event in events
            if event.get("cat") in _LAUNCHES and "correlation" in event.get("args", {})
        }
        times.on_gpu = True
        for kernel in kernels:
            launch = launches.get(kernel.get("args", {}).get("correlation"), kernel)
            at, thread = launch["ts"], (launch["pid"], launch["tid"])
            mark = _innermost(main, at)
            if mark is not None and not steps.isdisjoint(mark.lineage()):
                _count_kernel(times, kernel, _innermost(threads.get(thread, []), at), mark)
        busy = sum(times.phases.values())
        times.phases[IDLE] = idle = max(0.0, times.wall - busy)
        times.add(IDLE, IDLE, idle)
    else:
        for span in main:
            if not steps.isdisjoint(span.lineage()):
                _count_span(times, span)
    return times


_KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")


def _threads(events: Iterable[Mapping[str, Any]]) -> dict[Thread, list[Span]]:
    """The operations and marks of each thread by their start, each with the one around it."""
    threads = defaultdict[Thread, list[Span]](list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "user_annotation"):
            start, is_mark = event["ts"], event["cat"] == "user_annotation"
            span = Span(str(event["name"]), start, start + event["dur"], is_mark)
            threads[event["pid"], event["tid"]].append(span)
    for spans in threads.values():
        spans.sort(key=lambda span: (span.start, -span.end))
        around: Span | None = None
        for span in spans:
            while around is not None and around.end <= span.start:
                around = around.parent
            span.parent = around
            if around is not None:
                around.inside += span.end - span.start
            around = span
    return dict(threads)


def _innermost(spans: Sequence[Span], time: float) -> Span | None:
    """The innermost span of a thread at this time."""
    place = bisect_right(spans, time, key=attrgetter("start"))
    candidates = spans[place - 1].lineage() if place else ()
    return next((span for span in candidates if span.end > time), None)


def _count_span(times: StepTimes, span: Span) -> None:
    names = [around.name for around in span.lineage()]
    phase = phase_of(span)
    times.phases[phase] += span.self_time
    is_ours = span.is_mark and (span.name in PHASES or STEP.fullmatch(span.name))
    operation = PYTHON if is_ours else span.name
    times.add(group_of(names, phase), operation, span.self_time)


def _count_kernel(
    times: StepTimes, kernel: Mapping[str, Any], operation: Span | None, mark: Span
) -> None:
    """One kernel: `operation` launched it, while `mark` was the innermost span of the main thread.

    Compiled code launches many kernels from one span, so there the kernel's own name counts.
    """
    names = [around.name for around in operation.lineage()] if operation else []
    if operation is None or operation.is_mark:
        names.insert(0, str(kernel["name"]))
    phase = phase_of(mark)
    if phase == "forward" and FUSED_LOSS in names:
        phase = LOSS
    times.phases[phase] += kernel["dur"]
    times.add(group_of(names, phase), names[0], kernel["dur"])


def phase_of(span: Span) -> str:
    """The phase of a step that a span belongs to."""
    is_loss = False
    for around in span.lineage():
        is_loss = is_loss or around.name == FUSED_LOSS
        if around.is_mark and around.name in PHASES:
            return LOSS if is_loss and around.name == "forward" else around.name
    return BETWEEN


def group_of(names: Sequence[str], phase: str) -> str:
    """The group of an operation: its name first, then those of the spans around it."""
    if phase == LOSS or any("linear_sharpness" in name for name in names):
        return LOSS
    if phase == "data":
        return DATA
    if phase in ("clip", "optimizer") or any(name.startswith("Optimizer.") for name in names):
        return OPTIMIZER
    if phase in ("logging", "validation", "samples", "checkpoint"):
        return AFTER
    if phase not in ("forward", "backward"):
        return REST
    if any(ATTENTION.search(name) for name in names):
        return "attention"
    return next((group for group, words in GROUPS.items() if re.search(words, names[0])), REST)


def _largest_first(times: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])


def shares(times: StepTimes) -> str:
    """The phases on one line: `forward 31%, backward 40%, ...`, the smallest left out."""
    parts = [(name, time / times.wall) for name, time in _largest_first(times.phases)]
    return ", ".join(f"{name} {share:.0%}" for name, share in parts if share >= 0.005)


def table(times: StepTimes, title: str) -> str:
    """Phases, groups and the operations that take longest, as text."""
    clock = "of GPU kernels" if times.on_gpu else "by the clock"
    lines = [
        title,
        f"Times are {clock}, of {counted(times.num_steps, 'step')} of "
        f"{times.wall / times.num_steps / 1e3:,.2f} ms. Self time: without the operations inside.",
        "",
    ]
    order = {name: place for place, name in enumerate(PHASES)}
    phases = sorted(times.phases.items(), key=lambda item: order.get(item[0], len(order)))
    for name, rows in (("phase", phases), ("group", _largest_first(times.groups()))):
        lines.append(f"{name:<28}{'ms per step':>12}{'share':>9}")
        lines += [f"{label:<28}{_figures(times, time)}" for label, time in rows]
        lines.append("")
    ordered = sorted(times.operations.items(), key=lambda item: -item[1][0])
    lines.append(
        f"{'operation':<62}{'group':<24}{'ms per step':>12}{'share':>9}{'calls':>10}"
        f"{'per step':>10}"
    )
    rest = [time_and_calls for _, time_and_calls in ordered[NUM_ROWS:]]
    if rest:
        total = [sum(time for time, _ in rest), sum(calls for _, calls in rest)]
        ordered = [*ordered[:NUM_ROWS], (("", counted(len(rest), "other")), total)]
    for (group, operation), (time, calls) in ordered:
        name = operation if len(operation) <= 60 else f"{operation[:57]}..."
        lines.append(
            f"{name:<62}{group:<24}{_figures(times, time)}{calls:>10,.0f}"
            f"{calls / times.num_steps:>10,.1f}"
        )
    return "\n".join(lines) + "\n"


def _figures(times: StepTimes, time: float) -> str:
    return f"{time / times.num_steps / 1e3:>12,.3f}{time / times.wall:>9.1%}"
