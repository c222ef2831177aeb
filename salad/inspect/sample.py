"""`salad inspect PATH --play ID`: one text, what of it is heard and what the ASR understood; then its sound, by what is here."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text

from salad.console import console
from salad.errors import SaladError, visible
from salad.inspect.database import Database
from salad.inspect.rows import cell, plain_table, wide
from salad.inspect.totals import percent

# Programs that play a WAV file, and their options before its name; the first that is here and works.
PLAYERS = {
    "ffplay": ["-nodisp", "-autoexit", "-loglevel", "error"],
    "paplay": [],
    "aplay": ["-q"],
    "afplay": [],
    "play": ["-q"],
}
LONG = 6000  # characters of a text
FACTS = (
    "rejected",
    "domain",
    "cluster",
    "engine",
    "voice",
    "seconds",
    "cer",
    "predicted_divergence",
    "selector",
    "reason",
    "round",
)
SOME = 5  # ids that an error names

Row = dict[str, Any]


def play(db: Database, path: Path, asked: str) -> None:
    """Show and play the one text whose id begins so. SaladError where there is none, are several, or nothing can play."""
    row = find(db, asked)
    show(row)
    data = (row.get("audio") or {}).get("bytes") if isinstance(row.get("audio"), dict) else row.get("audio")
    if not isinstance(data, bytes) or not data:
        raise SaladError(f"{row['id']} has no sound", "it was turned down before it was spoken" if row.get("rejected") else "")
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        try:
            sound.write_bytes(to_wav(data))
        except RuntimeError as e:  # libsndfile's errors are RuntimeErrors
            raise SaladError(f"the sound of {row['id']} cannot be decoded ({e})", "the shard is damaged, or not of audio") from e
        if not any(_plays(name, [*options, str(sound)]) for name, options in PLAYERS.items()):
            raise SaladError(
                f"nothing here plays sound ({', '.join(PLAYERS)})", f"install one, or take the file: {_by_hand(path, row)}"
            )


def _by_hand(path: Path, row: Row) -> str:
    """The command that writes the one sound."""
    where = "id = '" + str(row["id"]).replace("'", "''") + "'"
    said = f'"{where}"' if re.fullmatch(r"id = '[\w.-]+'", where) else shlex.quote(where)
    return f"salad inspect {shlex.quote(str(path))} --where {said} --export wav --out sounds"


def find(db: Database, asked: str) -> Row:
    """The row whose id is this, or begins so and no other does; what was turned down comes after the samples."""
    known = [view for view in ("samples", "rejected") if db.has("id", view=view)]
    if not known:
        raise SaladError("these rows have no column 'id'", "--export wav writes their sounds, named by row")
    for view in known:
        like = f"FROM {view} WHERE starts_with(CAST(id AS VARCHAR), ?) ORDER BY 1 LIMIT {SOME + 1}"
        ids = [text_id for (text_id,) in db.ask(f"SELECT DISTINCT CAST(id AS VARCHAR) {like}", [asked])]
        if len(ids) > 1 and asked not in ids:
            names = ", ".join(ids[:SOME]) + (", …" if len(ids) > SOME else "")
            raise SaladError(f"several ids begin with '{asked}': {names}", "give more of it")
        if ids:
            columns = db.columns(view)
            sql = f"SELECT {', '.join(c.quoted for c in columns)} FROM {view} WHERE CAST(id AS VARCHAR) = ? LIMIT 1"
            row = next(db.ask(sql, [asked if asked in ids else ids[0]]))
            return dict(zip((c.name for c in columns), row, strict=True))
    raise SaladError(f"no id begins with '{asked}'", "ids are the first column of `salad inspect PATH`")


def show(row: Row) -> None:
    """Facts, the text with what is heard of it marked, and each span beside what the ASR understood."""
    console.print(f"[bold]{escape(cell(row['id']))}[/]", soft_wrap=True)
    facts = [(name, row[name]) for name in FACTS if row.get(name) is not None]
    said = [f"{name} {percent(v) if name == 'cer' and isinstance(v, float) else cell(v)}" for name, v in facts]
    console.print(" · ".join(said), style="dim", markup=False)
    spans = [s for s in row.get("spans") or [] if isinstance(s, dict)] if isinstance(row.get("spans"), list) else []
    if isinstance(row.get("text"), str):
        console.print()
        console.print(marked(row["text"], spans))
    if spans:
        console.print()
        _show_spans(spans, row.get("heard"))


def marked(text: str, spans: list[Row]) -> Text:
    """What is heard in colour, and in ⟨⟩, which a file keeps."""
    shown, at = Text(overflow="fold"), 0
    for span in spans:
        start, end = span.get("char_start"), span.get("char_end")
        if not isinstance(start, int) or not isinstance(end, int) or not at <= start <= end <= len(text):
            continue
        shown.append(visible(text[at:start]))
        lead = len(text[start:end]) - len(text[start:end].lstrip())
        shown.append(visible(text[start : start + lead]))
        shown.append(f"⟨{visible(text[start + lead : end].rstrip())}⟩", style="bold cyan")
        shown.append(" " * (len(text[start:end].rstrip()) < end - start))
        at = end
    shown.append(visible(text[at:]))
    shown.truncate(LONG, overflow="ellipsis")
    return shown


def _show_spans(spans: list[Row], heard: object) -> None:
    transcripts = heard.split(" | ") if isinstance(heard, str) else []
    paired = len(transcripts) == len(spans)
    table = plain_table()
    for head in ("from", "to", "said", *["the ASR heard"] * paired):
        time = head in ("from", "to")
        table.add_column(head, justify="right" if time else "left", overflow="fold", no_wrap=time)
    for i, span in enumerate(spans):
        times = [f"{t:.2f}" if isinstance(t, (int, float)) else "–" for t in (span.get("audio_start"), span.get("audio_end"))]
        said = cell(span.get("spoken") or span.get("text"))
        table.add_row(*times, escape(said), *[escape(cell(transcripts[i]))] if paired else [])
    wide().print(table)
    if not paired:
        told = f"the ASR heard: {cell(heard)}" if isinstance(heard, str) else "no ASR has listened to it"
        console.print(told, markup=False, soft_wrap=True, style="dim")


def to_wav(data: bytes) -> bytes:
    """16-bit PCM of any sound that libsndfile reads: the same samples where it has 16 bits. RuntimeError for what it does not."""
    import numpy as np
    import soundfile as sf

    with sf.SoundFile(io.BytesIO(data)) as sound:
        if sound.subtype.startswith("PCM"):
            wave = sound.read(dtype="int16", always_2d=True)
        else:  # floats and what is lossy come as floats, which libsndfile would not scale
            heard = np.nan_to_num(sound.read(dtype="float32", always_2d=True))
            wave = np.round(np.clip(heard, -1, 1) * 32767).astype(np.int16)
        if not len(wave):
            raise RuntimeError("it holds no sample")
        out = io.BytesIO()
        sf.write(out, wave, sound.samplerate, format="WAV", subtype="PCM_16")
    return out.getvalue()


def _plays(name: str, arguments: list[str]) -> bool:
    """Whether a program is here and has played."""
    program = shutil.which(name)
    if program is None:
        return False
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    done = subprocess.run([program, *arguments], check=False, **silent)  # type: ignore[call-overload]
    return done.returncode == 0
