"""Several processes on the CPU: started by torchrun as a user would, or forked, which saves importing torch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ABORTED = "terminate called without an active exception"
"""What a process says that ends while a thread of torch's own is still there, which happens once in very many runs."""


def torchrun(processes: int, *arguments: str, cwd: Path = ROOT) -> str:
    """Start that many processes, or, for one, a plain Python; returns what they print."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    path = os.pathsep.join(map(str, (ROOT, cwd)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    for _ in range(2):
        done = subprocess.run(
            [*start, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=200
        )
        if ABORTED not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-9000:]
    return done.stdout


_SERVER = """
import json, os, sys, tempfile
from attrib import cli
from attrib.analyses import check, contrib, evolve, fc, maps, relate, robust, run, sets, span

for line in sys.stdin:
    folder, port, arguments = json.loads(line)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        children = []
        for rank in range(2):
            children.append(os.fork())
            if children[-1] == 0:
                os.chdir(folder)
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
                sys.argv = ["attrib", *arguments]
                try:
                    cli.main()
                except SystemExit as stop:
                    sys.stdout.flush(), sys.stderr.flush()
                    os._exit(stop.code)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        out.seek(0), err.seek(0)
        print(json.dumps([statuses, out.read(), err.read()]), flush=True)
"""


class Pair:
    """Runs the command ``attrib`` in two processes with the variables that torchrun sets for them."""

    def __init__(self) -> None:
        """Start the process that has imported torch and is forked."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, *arguments: object, cwd: Path = ROOT) -> Any:
        """The JSON that the command prints."""
        assert self._server.stdin
        assert self._server.stdout
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        line = [*map(str, arguments), "--device", "cpu"]
        self._server.stdin.write(f"{json.dumps([str(cwd), port, line])}\n")
        self._server.stdin.flush()
        statuses, out, err = json.loads(self._server.stdout.readline())
        assert statuses == [0, 0], err
        return json.loads(out)

    def close(self) -> None:
        """End the process."""
        self._server.communicate()
