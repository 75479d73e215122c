"""Several processes on the CPU, started by torchrun as a user would."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def torchrun(processes: int, *arguments: str, cwd: Path = ROOT) -> str:
    """Start that many processes, or, for one, a plain Python; returns what they print."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    path = os.pathsep.join(map(str, (ROOT, cwd)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*start, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-9000:]
    return done.stdout
