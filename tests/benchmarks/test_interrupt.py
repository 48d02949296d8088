"""A real Ctrl-C, in a process of its own: XLA is computing when it comes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ["--methods", "pcgrad", "--seeds", "1", "--epochs", "40", "--batch-size", "500"]
TINY += ["--learning-rates", "0.01"]

# As `python -m benchmarks`, also where a shell in the background has told it to ignore Ctrl-C.
RUN = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("benchmarks", run_name="__main__")
"""


def test_ctrl_c(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "digits", *TINY, "--out", str(tmp_path), "--quiet"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = tmp_path / "single_task-seed0.json"
    while not first.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.startswith("benchmarks: interrupted: ")
    assert message.count("\n") == 1
    assert first.exists()
    assert not list(tmp_path.glob("*.tmp"))
