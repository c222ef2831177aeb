"""The process that speaks: `python -m salad.tts.worker FD` reads jobs from a socket and answers with takes.

It has its engines to itself and keeps them warm. It never outlives its parent, and Ctrl+C is the parent's to handle.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from salad.config import Voice
from salad.errors import NetworkError, SaladError, told
from salad.parent import end_with_parent
from salad.tts.base import Engine, make_engine
from salad.tts.takes import Job, Take, record

FIRST_WORDS = "Good morning."


class Booth:
    """Engines by name and model, each loaded when first asked for and kept."""

    def __init__(self) -> None:
        self._engines: dict[tuple[str, str | None], Engine] = {}

    def open(self, voice: Voice) -> Engine:
        """The engine of a voice, its model loaded. SaladError when it cannot say a single word."""
        key = (voice.engine, voice.model)
        if key not in self._engines:
            engine = make_engine(voice.engine, voice.voice, voice.model)
            try:
                engine.synthesize([FIRST_WORDS], voice.voice)
            except SaladError:
                raise
            except Exception as e:
                raise SaladError(f"engine '{voice.engine}' cannot speak ({told(e)})", "mend it or name another voice") from e
            self._engines[key] = engine
        return self._engines[key]


def attempt(engine: Engine, jobs: Sequence[Job], level: float) -> list[Take] | str:
    """The takes, or what the engine broke with. SaladError for what no other try would mend."""
    try:
        return record(engine, jobs, level)
    except SaladError:
        raise
    except MemoryError:
        return "out of memory"
    except Exception as e:  # whatever an engine may raise
        return f"engine failed ({told(e)})"


def serve(connection: Connection) -> None:
    """Answer (jobs, level) until the other end closes.

    The answer is ("loaded",) once the engine can speak, then ("takes", …) or ("broken", why); ("error", what) ends either.
    """
    booth = Booth()
    while True:
        try:
            jobs, level = connection.recv()
        except EOFError:
            return
        try:
            engine = booth.open(jobs[0].voice)
            connection.send(("loaded",))
            found = attempt(engine, jobs, level)
            connection.send(("broken", found) if isinstance(found, str) else ("takes", found))
        except SaladError as e:
            connection.send(("error", (NetworkError if isinstance(e, NetworkError) else SaladError)(str(e))))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        serve(Connection(int(sys.argv[1])))
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(1)


if __name__ == "__main__":
    main()
