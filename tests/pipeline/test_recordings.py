"""Readers of recorded speech: the same utterances from every kind of source, and a reason for each that cannot be used."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from salad.config import Recordings
from salad.errors import SaladError
from salad.pipeline.recordings import Recording, Unusable, read_recordings, recording_files

RATE = 16_000
TEXTS = ["The soup is warm.", "007", "null", 'She said: "stir, then wait".']


def tone(seconds: float = 1.0, rate: int = RATE, pitch: float = 200) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav_bytes(wave: np.ndarray, rate: int = RATE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wave, rate, format="WAV", **options)
    return buffer.getvalue()


def write_folder(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl") -> Path:
    """An audio folder: a tone for every file name that does not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        name = row.get("file_name")
        if isinstance(name, str) and name.endswith(".wav") and ".." not in name and not name.startswith("/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                sf.write(folder / name, tone(1 + i / 10), RATE)
    path = folder / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", encoding="utf-8-sig", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return folder


def read(dataset: Path | str, **options: Any) -> list[Recording | Unusable]:
    return list(read_recordings(Recordings(dataset=str(dataset), **options)))


def reasons(dataset: Path | str, **options: Any) -> list[str | None]:
    return [item.reason if isinstance(item, Unusable) else None for item in read(dataset, **options)]


def rows_of(texts: list[str]) -> list[dict[str, Any]]:
    return [{"file_name": f"part/{i}.wav", "text": text, "who": i % 2} for i, text in enumerate(texts)]


def struct_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        {"audio": {"bytes": (folder / r["file_name"]).read_bytes(), "path": r["file_name"]}, "text": r["text"], "who": r["who"]}
        for r in rows_of(TEXTS)
    ]


def as_parquet(folder: Path) -> str:
    table = pa.Table.from_pylist(struct_rows(folder))
    pq.write_table(table.slice(0, 2), folder / "a-0.parquet")
    pq.write_table(table.slice(2), folder / "a-1.parquet")
    return str(folder / "a-*.parquet")


def as_raw_bytes(folder: Path) -> str:
    rows = [{**r, "audio": r["audio"]["bytes"]} for r in struct_rows(folder)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "raw.parquet")
    return str(folder / "raw.parquet")


def as_hub_clone(folder: Path) -> str:
    """Parquet that says of itself that `audio` is an Audio column, beside one whose decoding needs a codec."""
    import datasets

    features = datasets.Features(
        {"audio": datasets.Audio(), "text": datasets.Value("string"), "who": datasets.Value("int64"), "other": datasets.Audio()}
    )
    rows = [{**r, "other": {"bytes": b"noise", "path": None}} for r in struct_rows(folder)]
    clone = folder / "clone"
    (clone / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, features.arrow_schema)
    pq.write_table(table, clone / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 1), clone / "data" / "test-00000-of-00001.parquet")
    return str(clone)


def as_saved(folder: Path) -> str:
    import datasets

    saved = datasets.Dataset.from_list(struct_rows(folder)).cast_column("audio", datasets.Audio(decode=False))
    datasets.DatasetDict(train=saved).save_to_disk(folder / "saved")
    return str(folder / "saved")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", as_parquet, as_raw_bytes, as_hub_clone, as_saved])
def test_every_kind_of_source_gives_the_same_utterances(tmp_path: Path, kind: str | Callable[[Path], str]) -> None:
    folder = write_folder(tmp_path / "speech", rows_of(TEXTS), kind if isinstance(kind, str) else "jsonl")
    found = read(folder if isinstance(kind, str) else kind(folder), group_column="who")
    assert [r.text for r in found] == TEXTS, "a transcript is text, whatever it looks like"
    assert [r.group for r in found] == ["0", "1", "0", "1"]
    for i, r in enumerate(found):
        assert isinstance(r, Recording)
        assert (r.rate, len(r.wave), r.wave.dtype) == (RATE, round((1 + i / 10) * RATE), np.float32)
        assert np.abs(r.wave - tone(1 + i / 10)).max() < 1e-4


def test_limit_and_split(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, rows_of(TEXTS))
    assert len(read(folder, limit=3)) == 3
    assert len(read(as_hub_clone(folder), split="test")) == 1
    write_folder(tmp_path / "splits" / "dev", rows_of(TEXTS[:2]))
    assert len(read(tmp_path / "splits", split="dev")) == 2


def test_stereo_is_mixed_down_and_any_rate_and_format_is_read(tmp_path: Path) -> None:
    stereo = np.stack([tone(1, 44_100), np.zeros(44_100, np.float32)], axis=1)
    sf.write(tmp_path / "a.flac", stereo, 44_100)
    sf.write(tmp_path / "b.ogg", tone(1, 8_000), 8_000)
    sf.write(tmp_path / "c.mp3", tone(1, 48_000), 48_000)
    sf.write(tmp_path / "d.wav", tone(), RATE, subtype="PCM_24")
    names = ["a.flac", "b.ogg", "c.mp3", "d.wav"]
    a, b, c, d = read(write_folder(tmp_path, [{"file_name": n, "text": "one two"} for n in names]))
    assert [r.rate for r in (a, b, c, d)] == [44_100, 8_000, 48_000, RATE]
    assert np.abs(a.wave - tone(1, 44_100) / 2).max() < 1e-4


BAD_SOUNDS = {
    "cannot be decoded": b"RIF",
    "no sound": wav_bytes(tone(0)),
    "sound is not finite": wav_bytes(np.full(800, np.nan, np.float32), subtype="FLOAT"),
    "no rate of speech": wav_bytes(tone(), 100),
}


@pytest.mark.parametrize("reason", BAD_SOUNDS)
def test_a_bad_sound_is_named_and_stops_nobody_else(tmp_path: Path, reason: str) -> None:
    (tmp_path / "bad.wav").write_bytes(BAD_SOUNDS[reason])
    folder = write_folder(tmp_path, [{"file_name": n, "text": "one two"} for n in ("a.wav", "bad.wav", "c.wav")])
    assert reasons(folder) == [None, reason, None]
    rows = [{"audio": {"bytes": b, "path": "x"}, "text": "one"} for b in (wav_bytes(tone()), BAD_SOUNDS[reason])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert reasons(tmp_path / "x.parquet") == [None, reason]


def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    sf.write(tmp_path / "secret.wav", tone(), RATE)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "pipe.wav").symlink_to(tmp_path / "pipe")
    outside = ["../secret.wav", "a/../../secret.wav", str(tmp_path / "secret.wav")]
    names = [*outside, "gone.flac", "a\0b", "", None, 5, ".", "pipe.wav"]
    folder = write_folder(tmp_path / "speech", [{"file_name": n, "text": "one"} for n in names])
    assert reasons(folder) == [*["file outside the folder"] * 3, "no such file", *["no file name"] * 4, *["no such file"] * 2]


def test_an_utterance_without_words_has_a_reason(tmp_path: Path) -> None:
    texts = ["", "   ", "… — !", None, 7, "<beep ascending>", "fire &amp; water", "\u202ehello\x00\u200b there\n\n"]
    found = read(write_folder(tmp_path, [{"file_name": f"{i}.wav", "text": t} for i, t in enumerate(texts)]))
    assert [getattr(r, "reason", None) for r in found] == [*["no text"] * 5, "markup", "markup", None]
    assert found[-1].text == "hello there"


def test_names_and_groups_from_outside_become_one_short_line(tmp_path: Path) -> None:
    name = "x\n[red]\u202e" + "y" * 120 + ".wav"
    (r,) = read(write_folder(tmp_path, [{"file_name": name, "text": "one", "who": "a\x1b[31m\n" * 90}]), group_column="who")
    assert "\n" not in r.key + r.group
    assert "\x1b" not in r.group
    assert "\u202e" not in r.key
    assert len(r.group) <= 200


WORDS = [{"word": "one", "start": 0.1, "end": 0.4}, {"word": "two", "start": 0.5, "end": 0.9}]


@pytest.mark.parametrize(
    "given",
    [WORDS, json.dumps(WORDS), {"word": ["one", "two"], "start": [0.1, 0.5], "end": [0.4, 0.9]}],
)
def test_word_times_are_read_in_every_shape(tmp_path: Path, given: Any) -> None:
    (r,) = read(write_folder(tmp_path, [{"file_name": "a.wav", "text": "one two", "w": given}]), words_column="w")
    assert [(w.text, w.start, w.end) for w in r.words] == [("one", 0.1, 0.4), ("two", 0.5, 0.9)]


def test_word_times_survive_parquet(tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": wav_bytes(tone()), "path": None}, "text": "one two", "w": WORDS}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    (r,) = read(tmp_path / "x.parquet", words_column="w")
    assert [w.end for w in r.words] == [0.4, 0.9]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, None),
        ([], None),
        ("", None),
        ("[{", "word times cannot be read"),
        ("5", "word times cannot be read"),
        ([{"text": "one"}], "word times cannot be read"),
        ([{"word": "one", "start": "soon", "end": 1}], "word times cannot be read"),
        (WORDS[::-1], "word times out of order"),
        ([{"word": "one", "start": -0.5, "end": 0.4}], "word times out of order"),
        ([{"word": "one", "start": 0.5, "end": 0.4}], "word times out of order"),
        ([{"word": "one", "start": 0.5, "end": float("nan")}], "word times out of order"),
        ([{"word": "one", "start": -0.01, "end": 1.05}], None),
        ([{"word": "one", "start": 0.5, "end": 1.5}], "words beyond the sound"),
    ],
)
def test_wrong_word_times_are_named(tmp_path: Path, given: Any, reason: str | None) -> None:
    folder = write_folder(tmp_path, [{"file_name": "a.wav", "text": "one", "w": given}])
    assert reasons(folder, words_column="w") == [reason]


@pytest.mark.parametrize("option", ["text_column", "group_column", "words_column"])
def test_a_wrong_column_lists_those_there_are(tmp_path: Path, option: str) -> None:
    folder = write_folder(tmp_path, rows_of(TEXTS))
    for dataset in (str(folder), as_parquet(folder)):
        with pytest.raises(SaladError, match=r"no column 'nope': its columns: .*text, who"):
            read(dataset, **{option: "nope"})
    with pytest.raises(SaladError, match="no column 'sound'"):
        read(as_parquet(folder), audio_column="sound")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    for name, why in {
        "empty": "no metadata.csv, metadata.jsonl, metadata.parquet and no .parquet file there",
        "gone": "no such file or folder",
        "gone/metadata.csv": "no such file",
        "gone.jsonl": "no such file",
        "gone-*.parquet": "no such file",
        "notes.txt": "no kind of file that is read",
        "broken.parquet": "broken.parquet",
    }.items():
        with pytest.raises(SaladError, match=why):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b'{"file_name": "a.wav", "text"', "JSONDecodeError"), (b"[1, 2]\n", "line 1 of .* is no object"), (b"\xff\xfe", "Unicode")],
)
def test_damaged_metadata_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(SaladError, match=why):
        read(tmp_path)


def test_a_changed_folder_is_seen(tmp_path: Path) -> None:
    source = Recordings(dataset=str(write_folder(tmp_path, rows_of(TEXTS))))
    before = recording_files(source)
    assert before["files"] == 5
    assert recording_files(source) == before
    sf.write(tmp_path / "part" / "0.wav", tone(3), RATE)
    assert recording_files(source)["digest"] != before["digest"]
    assert recording_files(Recordings(dataset="some/hub-name")) == {}


# -- Lhotse ----------------------------------------------------------------------------------------------------


def cut_of(
    path: Path, supervisions: list[dict[str, Any]], start: float = 0, kind: str = "file", source: str = ""
) -> dict[str, Any]:
    """A line of a cuts manifest, as `CutSet.to_jsonl` writes it."""
    info = sf.info(path)
    sources = [{"type": kind, "channels": list(range(info.channels)), "source": source or str(path)}]
    recording = {"id": path.stem, "sources": sources, "sampling_rate": info.samplerate, "num_samples": info.frames,
                 "duration": info.duration, "channel_ids": list(range(info.channels))}  # fmt: skip
    said = [{"recording_id": path.stem, "channel": 0, **s} for s in supervisions]
    return {"id": f"cut-{path.stem}", "start": start, "duration": info.duration - start, "channel": 0, "supervisions": said,
            "recording": recording, "type": "MonoCut"}  # fmt: skip


def write_cuts(path: Path, *cuts: dict[str, Any]) -> Path:
    pytest.importorskip("lhotse", reason="pip install 'salad-speech[lhotse]'")
    from lhotse.serialization import open_best

    with open_best(path, "w") as f:
        f.write("".join(json.dumps(c) + "\n" for c in cuts))
    return path


@pytest.fixture
def long_recording(tmp_path: Path) -> Path:
    """Ten seconds; second i is a constant of i/20 on channel 0, and of i/40 on channel 1."""
    steps = np.repeat(np.arange(10) / 20, RATE).astype(np.float32)
    sf.write(tmp_path / "talk.wav", np.stack([steps, steps / 2], axis=1), RATE)
    return tmp_path / "talk.wav"


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_a_cut_gives_an_utterance_a_supervision(tmp_path: Path, long_recording: Path, name: str) -> None:
    alignment = {"word": [["good", 6.0, 0.5], ["bye", 6.5, 0.5]]}
    supervisions = [
        {
            "id": "second",
            "start": 4.0,
            "duration": 1.0,
            "text": "good bye",
            "speaker": "ann",
            "channel": 1,
            "alignment": alignment,
        },
        {"id": "first", "start": 1.0, "duration": 2.0, "text": "hello"},
    ]
    cuts = write_cuts(tmp_path / name, cut_of(long_recording, supervisions, start=2.0))
    first, second = read(cuts)
    assert (first.key, first.text, first.group, first.words) == ("first", "hello", "talk", None)
    assert first.wave == pytest.approx(np.repeat([3 / 20, 4 / 20], RATE), abs=1e-4)
    assert (second.key, second.group) == ("second", "ann")
    assert second.wave == pytest.approx(np.repeat([6 / 40], RATE), abs=1e-4)
    assert [(w.text, w.start, w.end) for w in second.words] == [("good", 0, 0.5), ("bye", 0.5, 1.0)]


def test_a_cut_whose_sound_is_a_command_is_not_run(tmp_path: Path, long_recording: Path) -> None:
    said = [{"id": "x", "start": 0, "duration": 1.0, "text": "hello"}]
    command = cut_of(long_recording, said, kind="command", source=f"touch {tmp_path / 'ran'}; cat {long_recording}")
    opus = cut_of(long_recording, said, source=f"{tmp_path}/a.opus; touch {tmp_path / 'ran'}")
    assert reasons(write_cuts(tmp_path / "cuts.jsonl", command, opus)) == ["sound is not in a file", "no such file"]
    assert not (tmp_path / "ran").exists()


def test_what_a_cut_lacks_is_named(tmp_path: Path, long_recording: Path) -> None:
    said = {"id": "x", "start": 0.0, "duration": 1.0, "text": "hello"}
    faster = cut_of(long_recording, [said])
    faster["recording"]["transforms"] = [{"name": "Speed", "kwargs": {"factor": 1.1}}]
    cuts = [
        cut_of(long_recording, []),
        cut_of(long_recording, [{k: v for k, v in said.items() if k != "text"}]),
        cut_of(long_recording, [{**said, "channel": 7}]),
        cut_of(long_recording, [{**said, "start": 20.0}]),
        cut_of(long_recording, [{**said, "start": -3.0}]),
        faster,
    ]
    expected = ["no text", "no text", "no such channel", "no sound", "no sound", "cut is transformed"]
    assert reasons(write_cuts(tmp_path / "cuts.jsonl", *cuts)) == expected


def test_other_lhotse_manifests_are_refused(tmp_path: Path, long_recording: Path) -> None:
    recordings = write_cuts(tmp_path / "recordings.jsonl", cut_of(long_recording, [])["recording"])
    with pytest.raises(SaladError, match="holds Recordings and no cuts"):
        read(recordings)
    with pytest.raises(SaladError, match="cannot be read"):
        read(write_cuts(tmp_path / "odd.jsonl", {"type": "Nonsense"}))
