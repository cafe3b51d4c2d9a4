"""A study that is killed again and again ends with the same answer as one that was not."""

import random
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.forked_python import ForkedPython
from tests.studies.test_study import study_file, without_times  # noqa: F401

NUM_KILLS = 10


@pytest.mark.long
def test_ten_kills_at_random_moments(
    study_file: Path,  # noqa: F811
    tmp_path: Path,
    command_environment: Mapping[str, str],
) -> None:
    text = study_file.read_text(encoding="utf-8").replace("max_steps: 8", "max_steps: 600")
    text = text.replace("save_interval: 2", "save_interval: 25")
    study_file.write_text(text.replace("eval_interval: 4", "eval_interval: 300"), encoding="utf-8")
    choose = random.Random(1)

    def start(where: str) -> ForkedPython:
        (tmp_path / where).mkdir(exist_ok=True)
        command = ["-m", "sharpgpt", "study", str(study_file), "--output", "out"]
        return ForkedPython(command, env=command_environment, cwd=tmp_path / where)

    with start("whole") as whole:
        assert whole.wait(600) == 0
    num_killed = 0
    for number in range(100):
        with start("killed") as process:
            seconds = choose.uniform(2, 20) if num_killed < NUM_KILLS else 600
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                runs = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGKILL)
                if number % 2:  # else they are told by the kernel, and save
                    for run in runs:
                        run.kill()
                process.wait(60)
                num_killed += 1
                continue
        assert code == 0
        break
    print(f"{num_killed} kills")
    assert num_killed >= NUM_KILLS // 2
    assert without_times(tmp_path / "killed/out/study.json") == without_times(
        tmp_path / "whole/out/study.json"
    )
