"""A script's own process, without the seconds that importing torch takes each time.

`run_script` asks a server, one for each process of tests, to fork. The server has imported what the
scripts' libraries are and nothing of this repository: paths, arguments, environment, imports and
exit status are those of a process of the script's own. What must be one from its very first line
(OpenMP's settings, torchrun, signals, limits) is started by subprocess.
"""

import atexit
import io
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

LIBRARIES = (
    "torch",
    "torch.utils.data",
    "torch.distributed",
    "tensorboardX",
    "tyro",
    "scipy.ndimage",
    "scipy.spatial",
    "cc3d",
)
LIBRARIES += ("h5py", "tqdm", "SimpleITK", "nibabel", "jinja2", "matplotlib.pyplot")
_servers: dict[int, subprocess.Popen] = {}


def run_script(script, *flags, cwd=None, env=None, timeout=120) -> subprocess.CompletedProcess:
    """As `subprocess.run([python, script, *flags], capture_output=True,
    text=True)`; a script that takes longer than `timeout` seconds is ended by SIGALRM.
    """
    server = _servers.get(os.getpid())
    if server is None:
        command = [sys.executable, __file__]
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        _servers[os.getpid()] = server
        atexit.register(server.terminate)
    words = [str(script), *map(str, flags)]
    wish = {
        "words": words,
        "cwd": str(cwd or os.getcwd()),
        "env": dict(os.environ if env is None else env),
        "timeout": timeout,
    }
    print(json.dumps(wish), file=server.stdin, flush=True)
    status, out, error = json.loads(server.stdout.readline())
    return subprocess.CompletedProcess([sys.executable, *words], status, out, error)


def _serve() -> None:
    for library in LIBRARIES:
        __import__(library)
    for line in sys.stdin:
        wish = json.loads(line)
        ends = [os.memfd_create(name) for name in ("out", "error")]
        child = os.fork()
        if child == 0:
            _be(wish, *ends)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = [os.pread(end, os.fstat(end).st_size, 0).decode("utf-8") for end in ends]
        for end in ends:
            os.close(end)
        print(json.dumps([status, *said]), flush=True)


def _standard(number: int, mode: str) -> io.TextIOWrapper:
    return os.fdopen(number, mode, encoding="utf-8", closefd=False)


def _be(wish: dict, out: int, error: int) -> None:
    """This process from now on: the script. Never returns."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(error, 2)
        sys.stdin, sys.stdout, sys.stderr = map(_standard, range(3), "rww")
        signal.alarm(wish["timeout"])
        os.environ.clear()
        os.environ.update(wish["env"])
        os.chdir(wish["cwd"])
        sys.argv = wish["words"]
        sys.path[0] = str(Path(wish["words"][0]).resolve().parent)
        try:
            runpy.run_path(wish["words"][0], run_name="__main__")
            status = 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        atexit._run_exitfuncs()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
