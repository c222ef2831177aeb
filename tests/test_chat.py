"""`salad chat`: what it answers, what it says of bad input, and how a conversation ends."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from salad import artifact
from salad.chat import HONEST, chat, find_checkpoint, read_audio
from salad.errors import SaladError
from tests.fakes import RATE, ToneEngine

WAVE = ToneEngine().synthesize(["stir the warm"], "tone")[0].wave


@pytest.fixture(scope="module")
def checkpoint(fake_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from salad.trainer.student import StudentConfig, load_lm, new_student

    sizes = {"encoder_width": 16, "encoder_frame_rate": 50.0, "layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}
    config = StudentConfig(lm=fake_models["lm"], encoder=fake_models["encoder"], **sizes)
    folder = tmp_path_factory.mktemp("checkpoint")
    new_student(config, load_lm(fake_models["lm"], torch.float32), seed=3).save_pretrained(folder)
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "sound.wav", WAVE, RATE)
    return tmp_path / "sound.wav"


def talk(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """A terminal where a person types these lines, then Ctrl+D."""
    typed = iter([*lines, EOFError])

    def read(_: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)


def test_it_answers_and_says_what_it_is(checkpoint: Path, sound: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    chat(checkpoint, sound, None, max_new_tokens=5)
    heard = capfd.readouterr()
    assert HONEST in heard.err
    chat(checkpoint, None, "the party", max_new_tokens=5)
    read = capfd.readouterr()
    assert heard.out.endswith("\n")
    assert heard.out != read.out


def test_what_the_model_says_is_no_command_for_the_terminal(
    checkpoint: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from salad.trainer.student import Student

    monkeypatch.setattr(Student, "generate", lambda *a, write, **k: write("\x1b[2Jred\a [bold]not bold[/]\r\n\x9b1m"))
    chat(checkpoint, None, "the")
    assert capfd.readouterr().out == "[2Jred [bold]not bold[/]\n1m\n"


def test_a_conversation(checkpoint: Path, sound: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, str]] = []

    def generate(self: object, audio: object, prompt: str, **options: object) -> None:
        asked.append((audio is not None, prompt))

    monkeypatch.setattr("salad.trainer.student.Student.generate", generate)
    talk(monkeypatch, "first", "/audio nowhere.wav", f"/audio {sound}", "and then?", "/what", "", "/quit", "never asked")
    chat(checkpoint, None, None)
    said = capfd.readouterr().err
    assert asked == [(False, "first"), (True, ""), (True, "and then?")]
    assert "audio nowhere.wav: No such file" in said
    assert "/audio FILE loads a sound" in said


@pytest.mark.parametrize("how", [EOFError, KeyboardInterrupt])
def test_ctrl_c_and_ctrl_d_end_a_conversation(
    checkpoint: Path, sound: Path, monkeypatch: pytest.MonkeyPatch, how: type[BaseException]
) -> None:
    talk(monkeypatch, "the", how)
    chat(checkpoint, sound, None, max_new_tokens=2)


def test_nothing_to_answer_is_said_at_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SaladError, match=r"nothing to answer: give --audio FILE, --prompt TEXT"):
        chat(checkpoint, None, None)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_sounds_are_read_and_mixed_down(tmp_path: Path, kind: str) -> None:
    soundfile.write(tmp_path / f"a.{kind}", np.stack([WAVE, 0 * WAVE], 1), RATE)
    wave, rate = read_audio(tmp_path / f"a.{kind}")
    assert rate == RATE
    assert wave.ndim == 1
    assert abs(len(wave) - len(WAVE)) <= 2500
    assert np.abs(wave).max() == pytest.approx(0.15, abs=0.02)


def test_what_is_no_sound_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "nothing.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", WAVE[:0], RATE)
    for name, says in {
        "nowhere.wav": "No such file or directory: give the path",
        ".": "Is a directory",
        "text.wav": "cannot be read .*: give a WAV, FLAC, OGG or MP3 file",
        "nothing.wav": "cannot be read",
        "empty.wav": "is empty: it has no samples",
    }.items():
        with pytest.raises(SaladError, match=says):
            read_audio(tmp_path / name)


def test_a_run_answers_with_its_last_trained_student(tmp_path: Path) -> None:
    def train(name: str) -> None:
        blank = artifact.Manifest(name, "key", {}, {}, "1", 0, 0.0)
        artifact.publish(tmp_path / name / "checkpoint", blank, lambda out: (out / "final").mkdir() or {})

    with pytest.raises(SaladError, match=r"has no trained checkpoint: finish Stage I"):
        find_checkpoint(tmp_path)
    train("stage-one")
    assert find_checkpoint(tmp_path) == tmp_path / "stage-one/checkpoint/final"
    for name in ("control", "round-000", "round-002", "round-010"):
        train(name)
    (tmp_path / "round-011/checkpoint/final").mkdir(parents=True)  # not published
    assert find_checkpoint(tmp_path) == tmp_path / "round-010/checkpoint/final"
    assert find_checkpoint(tmp_path, "control") == tmp_path / "control/checkpoint/final"
    with pytest.raises(SaladError, match=r"no checkpoint 'round-11'; did you mean '.*'\?: it has control, round-000, round-002"):
        find_checkpoint(tmp_path, "round-11")
    with pytest.raises(SaladError, match="no checkpoint"):
        find_checkpoint(tmp_path, "../elsewhere")
    with pytest.raises(SaladError, match="is not a folder"):
        find_checkpoint(tmp_path / "nowhere")


def test_a_model_that_is_no_student_is_refused(fake_models: dict[str, str]) -> None:
    with pytest.raises(SaladError, match="is a llama model, not a student"):
        chat(Path(fake_models["lm"]), None, "the")


@pytest.mark.slow
def test_in_a_terminal(checkpoint: Path, sound: Path) -> None:
    """The command itself, over a pseudo-terminal: it asks, answers, and /quit ends it with 0."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "salad", "chat", "--audio", str(sound), "--max-new-tokens", "3", str(checkpoint)]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, b"the party\n/quit\n")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("> ") == 2
    assert HONEST in err
    assert "Traceback" not in err
