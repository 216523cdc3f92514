"""`python -m tests.crash.nursery`: imports the server once, and becomes a server process whenever a port is asked for.

Importing takes seconds and is not what is checked; a copy of a process that has just imported is a process that has
just imported. Reads a port per line, writes the new process's id.
"""

from __future__ import annotations

import os
import signal
import sys

from llmserve_server.__main__ import main as serve
from llmserve_server.app import create_app
from llmserve_server.backends.kernel import Kernel
from llmserve_server.settings import Settings

__all__: list[str] = []


def main() -> None:
    """Answer until nobody asks any more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the server prints is no answer
    Kernel().settled()
    # Made once and let go of, with nothing open: what the first application has to look up, the copies know.
    create_app(Settings(store_url="sqlite://")).state.registry.shutdown()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who is killed here is nobody's zombie
    print("ready", file=answers)
    for line in sys.stdin:
        port = str(int(line))
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answers.close()
            serve(["--host", "127.0.0.1", "--port", port])
            os._exit(0)
        print(process, file=answers)


if __name__ == "__main__":
    main()
