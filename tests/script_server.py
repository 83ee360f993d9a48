"""Runs the project's scripts as a user does, each in a process of its own, but without importing the libraries anew.

Importing torch, transformers and datasets takes longer than most of what the tests run. A server imports them once
and forks for every script: the child has the script's arguments, folder and output, and ends with its exit code. One
server serves one environment, because libraries read it when they are imported.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

LIBRARIES = ("accelerate", "datasets", "scipy.stats", "sklearn.linear_model", "torch", "transformers.trainer")
LIBRARIES += ("modeling_merit", "modeling_merit.processing.training.run")
servers: dict[frozenset, subprocess.Popen] = {}


def run_script(
    script: str | Path,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    processes: int = 1,
    libraries: Sequence[str] = LIBRARIES,
) -> subprocess.CompletedProcess:
    """Return what `subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)` returns.

    With several `processes` they have the variables that `torch.distributed.run` sets; the exit code is that of one
    that failed, if any did: it ends the others.
    """
    environment, folder = dict(os.environ if env is None else env), str(cwd or Path.cwd())
    environment.pop("PYTEST_CURRENT_TEST", None)  # else every test would have a server of its own
    command = [str(Path(folder, script)), *map(str, arguments)]
    key = frozenset([*environment.items(), libraries])
    server = servers.get(key) or _start(key, environment, libraries)
    with tempfile.TemporaryDirectory() as outputs:
        paths = [f"{outputs}/stdout", f"{outputs}/stderr"]
        try:
            print(json.dumps([command, folder, paths, processes, _free_port()]), file=server.stdin, flush=True)
            answer = server.stdout.readline()
        except BaseException:  # a timeout of the test, too: the answer would be taken for the next script's
            _stop(key)
            raise
        if not answer:
            _stop(key)
            raise RuntimeError(f"Expected the exit code of {script}, but the server has ended.")
        texts = [Path(path).read_text(encoding="utf-8") for path in paths]
    return subprocess.CompletedProcess([sys.executable, *command], int(answer), *texts)


def _start(key: frozenset, environment: Mapping[str, str], libraries: Sequence[str]) -> subprocess.Popen:
    command = [sys.executable, __file__, *libraries]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    servers[key] = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
    atexit.register(_stop, key)
    return servers[key]


def _stop(key: frozenset) -> None:
    if key in servers:
        server = servers.pop(key)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(libraries: Sequence[str]) -> None:
    """Answer every line of standard input, a script to run, with the script's exit code."""
    answers = os.fdopen(os.dup(1), "w")  # the scripts' own output goes elsewhere
    for name in libraries:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else a collection in a child copies the memory of all libraries
    while line := sys.stdin.readline():
        command, folder, paths, processes, port = json.loads(line)
        running = set()
        for rank in range(processes):
            child = os.fork()
            if child == 0:
                answers.close()
                if processes > 1:
                    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
                    os.environ |= {name: str(number) for name, number in numbers.items()}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(processes)}
                for descriptor, path in enumerate((os.devnull, *paths)):
                    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
                os.chdir(folder)
                sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
                runpy.run_path(command[0], run_name="__main__")
                return
            running.add(child)
        code = 0
        while running:
            child, status = os.wait()
            running.discard(child)
            code = code or os.waitstatus_to_exitcode(status)
            for other in running if code else ():
                os.kill(other, signal.SIGKILL)  # one that waits for the failed one heeds nothing else
        print(code, file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
