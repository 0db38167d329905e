"""Forked processes, which share what the test has built and cost no import."""

import os
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.tiny import unchecked_types


class Child:
    """A forked process. It ends with 0, or with 1 after an error, whose words it sends."""

    def __init__(self, work: Callable[[], Any]) -> None:
        reading, writing = os.pipe()
        self.id = os.fork()
        if self.id:
            os.close(writing)
            self._told = os.fdopen(reading)
            return
        code = 1
        try:
            os.write(writing, str(work()).encode())
            code = 0
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            sys.stdout.flush()
            os._exit(code)

    def wait(self) -> int:
        """How it ended, once it has."""
        self._told.close()
        _, status = os.waitpid(self.id, 0)
        return os.waitstatus_to_exitcode(status)

    def told(self) -> str:
        """What its work returned, or the error, once it has ended."""
        words = self._told.read()
        self.wait()
        return words

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)
        self.wait()


DONE = "done"


def in_a_child(work: Callable[[], Any]) -> Child:
    return Child(work)


def on_ranks(work: Callable[[], Any], n: int = 2) -> None:
    """Do the same in n forked processes that are ranks, as torchrun says it to each in its environment.

    Raises:
        AssertionError: what went wrong on a rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE=str(n))

    def as_rank(rank: int) -> str:
        os.environ.update(meeting, RANK=str(rank), LOCAL_RANK=str(rank))
        warnings.resetwarnings()  # as in a process of its own; torch warns of its own modules
        try:
            with unchecked_types():
                work()
            return DONE
        except BaseException:
            return traceback.format_exc()

    ranks = [in_a_child(lambda rank=rank: as_rank(rank)) for rank in range(n)]
    told = [rank.told() for rank in ranks]
    assert told == [DONE] * n, "\n".join(told)


def run_in_a_child(code: str, *arguments: str) -> CompletedProcess[str]:
    """What `python -W error -c code arguments` gives, without importing torch anew; what it imports stays there."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]

        def work() -> str:
            for number, file in enumerate(files, start=1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
            sys.argv = ["-c", *arguments]
            warnings.resetwarnings()
            warnings.simplefilter("error")
            try:
                with unchecked_types():
                    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
                return DONE
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                sys.stderr.flush()

        failed = in_a_child(work).told() != DONE
        said, complained = (file.read_text(encoding="utf-8") for file in files)
    return CompletedProcess([code], int(failed), said, complained)
