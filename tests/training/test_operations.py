"""The table of a profile, from traces whose times are known."""

from typing import Any

import pytest

from sharpgpt.training.operations import group_of, shares, step_times, table

MAIN, AUTOGRAD = 1, 2


def span(
    name: str, start: float, end: float, *, kind: str = "cpu_op", thread: int = MAIN, **args: int
) -> dict[str, Any]:
    return {
        "ph": "X", "cat": kind, "name": name, "ts": start, "dur": end - start, "pid": 7,
        "tid": thread, "args": args,
    }  # fmt: skip


def mark(name: str, start: float, end: float) -> dict[str, Any]:
    return span(name, start, end, kind="user_annotation")


STEP = [
    mark("step 4", 0, 1000),
    mark("data", 0, 100),
    mark("forward", 100, 600),
    span("aten::linear", 120, 220),
    span("aten::addmm", 130, 210),
    span("aten::scaled_dot_product_attention", 230, 290),
    span("aten::bmm", 240, 280),
    span("aten::gelu", 300, 330),
    span("sharpgpt::linear_sharpness", 350, 550),
    span("aten::mm", 360, 500),
    mark("backward", 600, 900),
    span("autograd::engine::evaluate_function: AddmmBackward0", 610, 800),
    span("aten::mm", 620, 790),
    mark("optimizer", 900, 990),
    mark("Optimizer.step#AdamW.step", 905, 985),
    span("aten::_fused_adamw_", 910, 980),
]


def test_self_times_add_up_to_the_steps() -> None:
    times = step_times([*STEP, span("aten::mm", 1200, 1300)], [True])
    assert (times.num_steps, times.wall, times.on_gpu) == (1, 1000, False)
    assert times.phases == {
        "data": 100, "forward": 300, "loss": 200, "backward": 300, "optimizer": 90,
        "between the phases": 10,
    }  # fmt: skip
    assert times.groups() == {
        "matrix products": 100 + 170, "attention": 60, "element-wise": 30, "loss": 200,
        "data": 100, "optimizer and clipping": 90, "the rest": 10 + 110 + 20 + 110,
    }  # fmt: skip
    assert sum(times.groups().values()) == sum(times.phases.values()) == 1000
    assert times.operations["matrix products", "aten::mm"] == [170, 1]
    assert times.operations["loss", "aten::mm"] == [140, 1], "the fused loss has its own products"
    assert times.operations["attention", "aten::bmm"] == [40, 1]
    assert group_of(["Optimizer.zero_grad#AdamW.zero_grad"], "between") == "optimizer and clipping"
    assert group_of(["aten::addmm", "validation"], "validation") == "after the step"
    assert shares(times).startswith("forward 30%, backward 30%, loss 20%, data 10%")


def test_a_step_that_was_rolled_back_does_not_count() -> None:
    later = [
        {**event, "ts": event["ts"] + shift, "name": event["name"].replace("4", name)}
        for shift, name in ((2000, "5"), (4000, "5"))
        for event in STEP
    ]
    times = step_times([*later, *STEP], [True, False, True])
    assert (times.num_steps, times.wall) == (2, 2000)
    assert times.operations["matrix products", "aten::mm"] == [340, 2]
    with pytest.raises(ValueError, match="no complete step"):
        step_times(STEP, [False])


def launched(kernel: str, number: int, *, at: float, thread: int, us: float) -> list[Any]:
    """A launch at this time on this thread, and its kernel, which runs long after."""
    return [
        span("cudaLaunchKernel", at, at + 1, kind="cuda_runtime", thread=thread,
             correlation=number),
        span(kernel, at + 5000, at + 5000 + us, kind="kernel", thread=99, correlation=number),
    ]  # fmt: skip


def test_with_a_gpu_the_times_are_those_of_kernels_by_what_launched_them() -> None:
    """Autograd launches those of the backward pass from a thread without marks."""
    backward = [
        span("autograd::engine::evaluate_function: AddmmBackward0", 610, 800, thread=AUTOGRAD),
        span("aten::mm", 620, 790, thread=AUTOGRAD),
    ]
    main = [event for event in STEP if event["ts"] < 600 or event["ts"] >= 900]
    events = [
        *main, *backward, mark("backward", 600, 900),
        *launched("ampere_gemm", 1, at=140, thread=MAIN, us=200),
        *launched("triton_red_fused_exp", 2, at=370, thread=MAIN, us=50),
        *launched("ampere_gemm", 3, at=630, thread=AUTOGRAD, us=300),
        *launched("multi_tensor_apply", 4, at=920, thread=MAIN, us=40),
        *launched("triton_poi_fused_gelu", 5, at=105, thread=MAIN, us=10),
        *launched("ampere_gemm", 6, at=1500, thread=MAIN, us=999),
    ]  # fmt: skip
    times = step_times(events, [True])
    assert times.on_gpu
    assert times.phases == {
        "forward": 210, "loss": 50, "backward": 300, "optimizer": 40, "GPU idle": 400,
    }  # fmt: skip
    assert times.operations == {
        ("matrix products", "aten::addmm"): [200, 1],
        ("loss", "aten::mm"): [50, 1],
        ("matrix products", "aten::mm"): [300, 1],
        ("optimizer and clipping", "aten::_fused_adamw_"): [40, 1],
        ("element-wise", "triton_poi_fused_gelu"): [10, 1],
        ("GPU idle", "GPU idle"): [400, 1],
    }


def test_the_table_has_the_longest_operations_and_the_sum_of_the_others() -> None:
    many = [span(f"aten::op{number}", 10 * number, 10 * number + 9) for number in range(1, 60)]
    text = table(step_times([mark("step 1", 0, 1000), *many], [True]), "Profile of RUN.")
    assert text.startswith(
        "Profile of RUN.\nTimes are by the clock, of 1 step of 1.00 ms. Self time: without"
    )
    lines = text.splitlines()
    assert len(lines[lines.index("") :]) < 60
    assert lines[-1].split() == ["20", "others", "0.180", "18.0%", "20", "20.0"]
