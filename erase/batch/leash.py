"""How a worker ends with the process that began it, also where that one is killed and can do nothing any more."""

from __future__ import annotations

import os
import signal
import threading

# The environment variable with the number of a pipe's reading end.
LEASH = "ERASE_LEASH"


def hold_on() -> None:
    """End this process, and all that it started, when the writing end of the pipe closes; nothing without a pipe."""
    given = os.environ.pop(LEASH, "")  # processes that this one starts have no such pipe
    if not given.isdecimal():
        return
    descriptor = int(given)
    try:
        os.set_inheritable(descriptor, False)
    except OSError:
        return
    threading.Thread(target=_wait, args=(descriptor,), daemon=True, name="leash").start()


def _wait(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    # A worker leads a session of its own; as anything else it ends alone.
    if os.getsid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
