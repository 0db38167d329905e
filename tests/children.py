"""Forked processes, which share what the test has built and cost no import."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


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


def in_a_child(work: Callable[[], Any]) -> Child:
    return Child(work)
