"""Commands in processes of their own, forked from one that has imported torch: an import takes two seconds.

Run as a script it is that process: for each line of JSON on stdin it answers with one on stdout.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import pytest
from conftest import black_pixel

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {resource.RLIMIT_CPU: 5, resource.RLIMIT_DATA: 2**31}
"""Of a command with limits: 5 seconds of a processor, and 2 GB."""


class Done(NamedTuple):
    """The exit statuses of the processes of a command, and what they printed."""

    statuses: list[int]
    out: str
    err: str


class Forks:
    """The process that is forked, kept until ``close``."""

    def __init__(self) -> None:
        """Start it."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self, arguments: Sequence[str], *, cwd: Path, limited: bool = False,
        environments: Sequence[Mapping[str, str]] = ({},),
    ) -> Done:  # fmt: skip
        """Run ``attrib`` with the arguments in a process for each of the environments; limited: with ``LIMITS``."""
        assert self._server.stdin
        assert self._server.stdout
        request = [list(arguments), str(cwd), limited, list(environments)]
        self._server.stdin.write(f"{json.dumps(request)}\n")
        self._server.stdin.flush()
        return Done(*json.loads(self._server.stdout.readline()))

    def run_pair(self, *arguments: object, cwd: Path = ROOT) -> Any:
        """The JSON that ``attrib`` prints in two processes with the variables that torchrun sets for them."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        environments = [place | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
        done = self.run([*map(str, arguments), "--device", "cpu"], cwd=cwd, environments=environments)
        assert done.statuses == [0, 0], done.err
        return json.loads(done.out)

    def close(self) -> None:
        """End the process."""
        self._server.communicate()


def _command(arguments: list[str], out: IO[str], err: IO[str]) -> NoReturn:
    """Run the command in this process, a child, and end it."""
    from attrib import cli

    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = ["attrib", *arguments]
    try:
        cli.main()
    except SystemExit as stop:  # without the second that Python takes to let go of torch
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(stop.code or 0))
    raise AssertionError("the command ends with SystemExit")


def _serve() -> None:
    from attrib.analyses import check, contrib, evolve, fc, maps, relate, robust, run, sets, span  # noqa: F401
    from attrib.plots import base

    pytest.MonkeyPatch().setattr(base, "drawn", black_pixel)  # as the fixture "undrawn"
    for line in sys.stdin:
        arguments, folder, limited, environments = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            children = []
            for environment in environments:
                children.append(os.fork())
                if children[-1] == 0:
                    os.chdir(folder)
                    os.environ |= environment
                    for kind, most in LIMITS.items() if limited else ():
                        resource.setrlimit(kind, (most, most))
                    _command(arguments, out, err)
            statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            out.seek(0)
            err.seek(0)
            sys.stdout.write(f"{json.dumps([statuses, out.read(), err.read()])}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _serve()
