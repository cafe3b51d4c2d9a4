"""A rank that waits names the one that it waits for; the ranks are threads of this process."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.runtime import peers as module
from sharpgpt.runtime.peers import LostRankError, Peers

CLOSED = "[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:31911."
TIMED_OUT = "[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"


@pytest.fixture(autouse=True)
def _meeting_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(module, "end_by_itself", lambda: None)


@pytest.fixture
def ranks() -> Iterator[list[Peers]]:
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda rank: Peers(rank, 3), range(3)))
    yield made
    for one in made:
        one.close()


def error_of(one: Peers, text: str) -> LostRankError:
    with pytest.raises(LostRankError) as raised, one.explain():
        raise RuntimeError(text)
    return raised.value


def test_the_rank_that_is_gone_is_named_and_what_to_do(
    ranks: list[Peers], capsys: pytest.CaptureFixture[str]
) -> None:
    """After SIGKILL of one rank only the table of torchrun was printed."""
    ranks[0].advice = "start again with --run_name x --resume auto"
    assert ranks[0].gone() == []
    ranks[1].close()
    error = error_of(ranks[0], CLOSED)
    assert str(error) == (
        f"{ranks[2].name(1)} is gone: killed, ended with a message of its own, or out of reach; "
        "start again with --run_name x --resume auto"
    )
    assert ranks[2].name(1).startswith("rank 1 (process ")
    assert capsys.readouterr().err == f"rank 0: error: {error}\n"
    assert not error.is_shown  # again
    ranks[0].close()
    assert "rank 1 (" in str(
        error_of(ranks[2], CLOSED)
    )  # and not rank 0, which ended because of it


def test_a_rank_that_lives_and_does_not_answer_is_named(
    ranks: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is stopped, or does something else."""
    monkeypatch.setattr(module, "ROLL_CALL_S", 0.5)
    with ThreadPoolExecutor(2) as threads:
        errors = list(threads.map(lambda rank: error_of(ranks[rank], TIMED_OUT), (0, 2)))
    for error in map(str, errors):
        assert error.startswith("rank 1 (process ")
        assert ") does not answer (Timed out waiting 1800000ms for recv); start all" in error


def test_a_network_between_ranks_that_live_is_named(
    ranks: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROLL_CALL_S", 5.0)
    with ThreadPoolExecutor(3) as threads:
        errors = list(threads.map(lambda one: error_of(one, TIMED_OUT), ranks))
    for error in map(str, errors):
        assert error.startswith("the connection between the ranks failed, though all live")


def test_an_error_of_something_else_is_left_alone(ranks: list[Peers]) -> None:
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"), ranks[0].explain():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_wait_ends_with_the_name_of_the_other_rank(
    ranks: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks[0].store.set("here", "value")
    assert ranks[1].wait("here", 0, "to prepare", 9.0) == b"value"
    with pytest.raises(LostRankError, match=r"waited 0 s for rank 0 \(process .*\) to prepare; st"):
        ranks[1].wait("absent", 0, "to prepare", 0.1)
    monkeypatch.setattr(module, "PROBE_EVERY_S", 0.0)
    ranks[0].close()
    with pytest.raises(LostRankError, match=r"rank 0 \(.* is gone"):
        ranks[1].wait("absent", 0, "to prepare", 9.0)


def test_a_rank_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_S", 0.1)
    with pytest.raises(
        LostRankError, match="waited 0 s for rank 1 to start; start all ranks again"
    ):
        Peers(0, 2)


def test_without_a_meeting_place_the_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(UserError, match=r"MASTER_ADDR and MASTER_PORT .* start with torchrun"):
        Peers(0, 2)
