"""Time and memory of cases, on a CPU or a GPU: alternating, after a warm-up, each one finished."""

import gc
import time
from collections.abc import Callable, Mapping

import torch

Case = Callable[[], object]


def seconds(case: Case, device: torch.device) -> float:
    """Of one call; on a GPU between two events, with nothing before them left to do."""
    if device.type != "cuda":
        started = time.perf_counter()
        case()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    case()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def alternating(
    cases: Mapping[str, Case], device: torch.device, *, rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each case, taking turns; a case that the device has no memory for has none."""
    times: dict[str, list[float]] = {}
    for name, case in cases.items():
        try:
            for _ in range(warm_up):
                case()
        except torch.OutOfMemoryError:
            free(device)
        else:
            times[name] = []
    for _ in range(rounds):
        for name, values in times.items():
            values.append(seconds(cases[name], device))
    return {name: times.get(name, []) for name in cases}


def peak_bytes(case: Case, device: torch.device) -> int | None:
    """On a GPU, the most memory that a call of the case has beside what is there before it."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    case()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
