"""Ends this process when the one that started it is gone, however that ended.

Without it a demo that was ended by `kill -9` would leave its programs behind, looking for a broker
for ever. `FLOCK_PARENT` is set by the demo only; a program that is run by hand lives on its own.
"""

import os
import signal
import threading
import time

LOOK_S = 1.0
GRACE_S = 5.0


def follow(parent: int) -> None:
    """End in good order, or else at once, as soon as `parent` is not this process's parent."""
    threading.Thread(target=_watch, args=(parent,), name="leash", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
