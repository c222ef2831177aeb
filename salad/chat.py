"""Talk to a trained student: `salad chat`. A sound and a text go in, and what it goes on with comes out as it is made."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from salad.errors import SaladError, nearest, told

if TYPE_CHECKING:
    from salad.audio import Wave
    from salad.trainer.student import Student

HELP = "Text goes on after the sound, each line by itself. /audio FILE loads a sound, /quit ends it."
HONEST = "This student continues what it hears and reads, as its training had it; it was never trained to chat."


def chat(
    folder: Path,
    audio: Path | None,
    prompt: str | None,
    checkpoint: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Answer once, or line by line where a person is at the terminal and gave no prompt.

    SaladError for a sound that is no sound, a folder without a student, and nothing to answer.
    """
    from salad import assets
    from salad.console import errors, stop_if_interrupted
    from salad.devices import pick_device
    from salad.pipeline.models import quiet_libraries

    asks = prompt is None and sys.stdin.isatty()
    if audio is None and not prompt and not asks:
        raise SaladError("there is nothing to answer", "give --audio FILE, --prompt TEXT, or both")
    sound = read_audio(audio) if audio else None
    found = find_checkpoint(folder, checkpoint)
    quiet_libraries()
    from salad.trainer.student import Student

    student: Student = assets.load_pretrained(Student, str(found)).to(pick_device())
    errors.print(f"{found}\n{HONEST}", markup=False, soft_wrap=True)

    def write(text: str) -> None:
        stop_if_interrupted()
        print("".join(c for c in text if c.isprintable() or c in "\n\t"), end="", flush=True)

    def answer(sound: tuple[Wave, int] | None, prompt: str) -> None:
        student.generate(sound, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, write=write)
        print(flush=True)

    with suppress(EOFError, KeyboardInterrupt) if asks else nullcontext():  # Ctrl+D and Ctrl+C end a conversation
        if sound or prompt:
            answer(sound, prompt or "")
        while asks:
            line = input("> ").strip()
            if line == "/quit":
                break
            try:
                if line.startswith("/audio "):
                    sound = read_audio(Path(line.removeprefix("/audio ").strip()).expanduser())
                    answer(sound, "")
                elif line and not line.startswith("/"):
                    answer(sound, line)
                else:
                    errors.print(HELP)
            except SaladError as e:
                errors.print(str(e), markup=False, soft_wrap=True)


def read_audio(path: Path) -> tuple[Wave, int]:
    """WAV, FLAC, OGG or MP3, mixed down to mono: (wave, rate). SaladError names what cannot be used, and why."""
    from salad.audio import from_bytes

    try:
        wave, rate = from_bytes(path.read_bytes())
    except OSError as e:
        raise SaladError(f"audio {path}: {e.strerror}", "give the path of a sound file") from e
    except Exception as e:
        raise SaladError(f"audio {path} cannot be read ({told(e)})", "give a WAV, FLAC, OGG or MP3 file") from e
    if not len(wave):
        raise SaladError(f"audio {path} is empty: it has no samples", "record it again")
    return wave, rate


def find_checkpoint(folder: Path, name: str | None = None) -> Path:
    """The student's folder: itself, or of a run the checkpoint of that name, by default the last trained one.

    SaladError where there is none, with the names that there are.
    """
    from salad.artifact import read_manifest

    if not folder.is_dir():
        raise SaladError(f"{folder} is not a folder", "give a run, e.g. runs/demo, or a checkpoint's folder")
    if (folder / "config.json").is_file():
        if name is not None:
            raise SaladError(f"{folder} is a checkpoint itself", "leave --checkpoint out")
        return folder
    trained = {p.parent.name: p / "final" for p in folder.glob("*/checkpoint") if read_manifest(p)}
    if not trained:
        raise SaladError(f"{folder} has no trained checkpoint", "finish Stage I with `salad run`, or give a checkpoint's folder")
    if name is None:
        rounds = sorted((n for n in trained if n.startswith("round-")), key=lambda n: (len(n), n))
        name = (rounds or sorted(trained, reverse=True))[-1 if rounds else 0]
    if name not in trained:
        known = sorted(trained)
        raise SaladError(f"{folder} has no checkpoint '{name}'{nearest(name, known)}", f"it has {', '.join(known)}")
    return trained[name]
