"""A process of `processes.py`: `python -m salad.pipeline.compute.worker FD` reads jobs from a socket and answers with outcomes.

It never outlives its parent, and Ctrl+C is the parent's to handle.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from salad.parent import end_with_parent
from salad.pipeline.compute.task import perform


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    connection = Connection(int(sys.argv[1]))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(perform(job))


if __name__ == "__main__":
    main()
