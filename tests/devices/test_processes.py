"""Two processes that share a batch train as one process does."""

import socket
import subprocess
import sys
import time

import numpy as np

from tests.common import ROOT, environment_of

SECONDS = 150
PORT_WAS_TAKEN = "Failed to start RPC server"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(count, folder):
    """Returns whether `count` processes all trained within the limit, and what they printed."""
    port, processes = free_port(), []
    logs = [folder / f"{number}.txt" for number in range(count)]
    try:
        for number, log in enumerate(logs):
            arguments = [port, number, count, folder / f"{count}.npz"]
            program = [
                sys.executable,
                "-m",
                "tests.devices.digits_on_processes",
                *map(str, arguments),
            ]
            with log.open("w") as file:
                options = {"cwd": ROOT, "env": environment_of(1), "stdout": file}
                processes.append(subprocess.Popen(program, stderr=subprocess.STDOUT, **options))
        end, codes = time.monotonic() + SECONDS, [None]
        # One that fails leaves the others waiting for it.
        while None in codes and not any(codes) and time.monotonic() < end:
            time.sleep(0.1)
            codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return codes == [0] * count, "".join(log.read_text() for log in logs)


def trained(count, folder):
    for _ in range(3):
        done, printed = run(count, folder)
        if done or PORT_WAS_TAKEN not in printed:
            break
    assert done, printed
    return np.load(folder / f"{count}.npz")


def test_two_processes_train_as_one(tmp_path):
    one, two = trained(1, tmp_path), trained(2, tmp_path)
    assert set(one) == set(two)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert np.all(one["losses of 0 at 4"] < one["losses of 0 at 0"])
