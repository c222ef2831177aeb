"""Texts, domains, names of files and ids that would be HTML, Markdown, paths, formats or shell words are nothing but text.

One run over them from pool to report, and one over recordings; then everything that shows or hands on what they made.
"""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import yaml
from markdown_it import MarkdownIt

from salad import cli, console
from salad.config import load_config
from salad.pipeline.export import FORMATS, export
from salad.pipeline.pool import read_pool
from salad.pipeline.stages import Run
from tests.fakes import WORDS, write_config

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
NASTY = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror=alert(1)>',
    "{0.__class__.__init__.__globals__}",
    "%s%n%(name)s",
    "$(touch owned)",
    "`touch owned`",
    "../../owned",
    "..\\..\\owned",
    "nul\x00owned",
    "\u202edenwo\u202c",
    "[bold red]rich[/] [link=file:///etc/passwd]x[/link]",
    "[owned](javascript:alert(1)) ![x](http://evil.example/p.png)",
    ESCAPE + "owned",
    "=cmd|'/C calc'!A0",
    "${HOME} {{ config }} {% include 'x' %}",
    "; rm -rf owned #",
    "| a | b |\n|---|---|",
    "\r\nX-Owned: 1",
)
FILE = "in $(touch owned) `x` <img src=x onerror=alert(1)> & ;'.jsonl"
HUGE = "x" * 100_000


def hostile_texts(path: Path) -> Path:
    """Sentences of the fakes with hostile words in them, in hostile domains; enough of each to be chosen from."""
    rng = np.random.default_rng(0)
    words = [w for of_domain in WORDS.values() for w in of_domain.split()]
    with path.open("w", encoding="utf-8") as f:
        for i in range(200):
            said = rng.choice(words, size=14).tolist()
            said.insert(int(rng.integers(14)), NASTY[i % len(NASTY)])
            domain = ["kitchen", NASTY[i // 4 % len(NASTY)], ESCAPE + HUGE, ""][i % 4]
            f.write(json.dumps({"text": f"{' '.join(said)} number {i}.".capitalize(), "topic": domain}) + "\n")
        f.write(json.dumps({"text": HUGE, "topic": "kitchen"}) + "\n")
        f.write(json.dumps({"text": f"stir {HUGE} with salt and some pepper and butter", "topic": None}) + "\n")
    return path


@dataclass
class Done:
    root: Path  # everything that the test wrote
    config: Path
    run: Run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Done:
    root = tmp_path_factory.mktemp("hostile")
    (root / "work").mkdir()
    source = {"dataset": str(hostile_texts(root / "work" / FILE)), "domain_column": "topic"}
    pool = {"sources": [source], "min_words": 6, "max_words": 40, "near_duplicate": None}
    path = write_config(root / "work", fake_models, rounds=1, pool=pool, control=False)
    run = Run(load_config(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "work")
        for stage in run.stages:
            run.execute(stage)
    return Done(root, path, run)


@pytest.fixture(autouse=True)
def nothing_appears(done: Done) -> Iterator[None]:
    """Nothing but what was asked for, wherever it might have been put."""
    yield
    assert {p.name for p in done.root.iterdir()} == {"work"}
    assert {p.name for p in (done.root / "work").iterdir()} <= {FILE, "texts.jsonl", "config.yaml", "runs", "out"}
    assert {p.name for p in (done.root / "work/runs").iterdir()} == {"fake"}
    assert [p for p in done.root.rglob("*") if "owned" in p.name and p.name != FILE] == []
    assert not Path("/owned").exists()


class Page(html.parser.HTMLParser):
    """Tags that a text must never make, and attributes that run code or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        ours = tag == "meta" and dict(attrs).keys() & {"charset", "name", "http-equiv"}
        if tag in ("img", "iframe", "object", "embed", "base", "form", "meta") and not ours:
            self.bad.append(json.dumps([tag, attrs]))
        for name, value in attrs:
            if name.startswith("on") or any(w in (value or "").lower() for w in ("javascript:", "evil.example", "<", "owned")):
                self.bad.append(json.dumps([tag, attrs]))


def test_the_texts_are_in_the_run(done: Done) -> None:
    """Otherwise nothing of what follows says anything."""
    texts = " ".join(read_pool(done.run.store.path("pool"), ["text"])["text"].to_pylist())
    assert sum(word in texts for word in NASTY) > len(NASTY) / 2, "what nobody can say is refused"
    assert "<script>" in texts
    assert "onerror" in texts
    assert "\x1b" not in texts
    assert "\x00" not in texts
    assert "\u202e" not in texts


def test_a_domain_is_one_short_line(done: Done) -> None:
    domains = {d for d in read_pool(done.run.store.path("pool"), ["domain"])["domain"].to_pylist() if d}
    assert {"kitchen", *NASTY[:7]} <= domains
    assert all(d.isprintable() and len(d) <= 200 for d in domains)


@pytest.mark.parametrize("page", ["index.html", "listening.html"])
def test_the_report_is_inert(page: str, done: Done) -> None:
    text = (done.run.store.path("report") / page).read_text(encoding="utf-8")
    found = Page()
    found.feed(text)
    assert found.bad == []
    for script in re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL):
        assert "document.title" not in script or "\\u003c" in script, "what is in a script is a quoted value"
    assert "\x1b" not in text
    assert {p.suffix for p in done.run.store.path("report").rglob("*") if p.is_file()} <= {
        ".yaml",
        ".html",
        ".flac",
        ".json",
        ".js",
        ".css",
        ".wav",
        ".svg",
    }


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def inert(said: str) -> None:
    """Nothing that a terminal would obey: the colours are ours, and there are none in a file."""
    control = {c for c in said if not c.isprintable() and c != "\n"}
    assert control == set(), control


@pytest.mark.parametrize("width", [80, 4000])
def test_a_terminal_is_shown_text(
    width: int, done: Done, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    root = str(done.run.store.root)
    for command in (
        ["run", str(done.config)], ["status", root], ["report", root], ["inspect", f"{root}/pool", "--limit", "300"],
        ["inspect", f"{root}/round-000/speech"], ["inspect", f"{root}/round-000/selection"], ["plan", str(done.config)],
    ):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["salad", *command])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
    said = shown(capsys)
    inert(said)
    assert "[bold red]rich[/]" in said.replace("\n", ""), "markup is shown, not obeyed"


def test_errors_are_text_too(done: Done, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = yaml.safe_load(done.config.read_text())
    for change in (
        {"natural": {"domains": [ESCAPE + "[bold]x"], "seconds": 9}, "name": "other"},
        {"pool": {"sources": [{"dataset": f"{ESCAPE}[bold].jsonl"}]}, "name": "other"},
        {"name": ESCAPE},
        {ESCAPE: 1},
    ):
        path = done.config.with_name("config.yaml")
        old = path.read_text()
        path.write_text(yaml.safe_dump({**data, **change}))
        monkeypatch.setattr("sys.argv", ["salad", "run", str(path)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        path.write_text(old)
        shutil.rmtree(done.root / "work/runs/other", ignore_errors=True)
        assert stopped.value.code
        said = shown(capsys)
        assert "error: " in said
        inert(said)


def test_tables_of_a_console_show_what_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(f"a {NASTY[10]} {ESCAPE}", [f"b {NASTY[10]} {ESCAPE}", "c"], [[f"d {NASTY[10]} {ESCAPE}", NASTY[0]]])
    said = shown(capsys)
    inert(said)
    assert said.count("[bold red]rich[/]") == 3


def skeleton(markdown: str) -> set[str]:
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    return set(re.findall(r"<[^>]*>", rendered))


@pytest.mark.parametrize("to", FORMATS)
def test_exports_hold_text(to: str, done: Done) -> None:
    out = done.root / "work/out" / to
    out.parent.mkdir(exist_ok=True)
    export(done.run.store.path("round-000/speech"), to, out)
    for path in out.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name), path
    tags = skeleton((out / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2])
    assert not [t for t in tags if re.match(r"<(script|img|iframe)|<a href=\"(?!https://arxiv.org)", t)]
    plain = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1])
    assert plain["license"] == "other"
    if to == "webdataset":
        import tarfile

        for tar in out.glob("*.tar"):
            assert all(re.fullmatch(r"[0-9a-f-]+\.(flac|json|txt)", m.name) for m in tarfile.open(tar))  # noqa: SIM115


def test_a_shard_names_no_path(done: Done) -> None:
    table = pq.read_table(done.run.store.path("round-000/speech/data"))
    assert all(re.fullmatch(r"[0-9a-f]{32}\.flac", a["path"]) for a in table["audio"].to_pylist())


def test_prefect_is_given_text(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    from salad.flows import artifacts

    given: list[str] = []

    def take(*values: object, **named: object) -> None:
        given.extend(map(str, (*values, *named.values())))

    for name in ("create_table_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(artifacts, name, take)
    monkeypatch.setattr(artifacts, "get_logger", None)  # nothing is left out
    artifacts.show_results(done.run, done.run.store.path("report") / NASTY[0] / "index.html", NASTY[0])
    artifacts.show_round(done.run, 1)
    summaries = [text for text in given if text.startswith("Run **")]
    assert len(summaries) == 2
    for text in summaries:
        assert not [t for t in skeleton(text) if not re.fullmatch(r"</?(p|strong|ul|li|table|thead|tbody|tr|th|td)>", t)]
        assert len(text) < 10_000
    assert given
    for text in given:
        inert(text)
        assert "<script>" not in text.replace("\\<", "")


# -- recordings ------------------------------------------------------------------------------------------------


def test_recordings_with_hostile_names(done: Done, tmp_path: Path, fake_models: dict[str, str]) -> None:
    """An audio folder whose files, speakers and texts are hostile, as natural speech of a run."""
    folder, rng = tmp_path / "speech", np.random.default_rng(0)
    folder.mkdir()
    lines, words = [], WORDS["kitchen"].split()
    names = [n.replace("/", "∕").replace("\x00", "") for n in NASTY]
    for name in ("../../etc/passwd", "/etc/passwd", "$(touch owned).wav"):
        lines.append(json.dumps({"file_name": name, "text": "stir the soup and add some salt", "who": "x"}))
    for i in range(40):
        name = f"{i} {names[i % len(names)]}.wav"
        sf.write(str(folder / name), rng.normal(0, 0.05, 16_000 * 3), 16_000, format="WAV")
        text = f"{' '.join(rng.choice(words, size=7))} {'$(touch owned) %s {0.__class__}' if i % 3 == 0 else ''}"
        lines.append(json.dumps({"file_name": name, "text": text, "who": NASTY[i % 2] + ESCAPE}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    natural = {"recordings": {"dataset": str(folder), "group_column": "who"}, "seconds": 30}
    (tmp_path / "work").mkdir()
    run = Run(load_config(write_config(tmp_path / "work", fake_models, rounds=1, control=False, natural=natural)))
    for stage in run.stages:
        run.execute(stage)
        if stage.name == "stage-one/metrics":
            break
    spoken = pq.read_table(run.store.path("natural/data"))
    assert spoken.num_rows
    for column in ("voice", "source", "reason"):
        assert all(str(v).isprintable() for v in spoken[column].to_pylist())
    reasons = set(pq.read_table(run.store.path("natural") / "rejected.parquet")["rejected"].to_pylist())
    assert "file outside the folder" in reasons
    tags = skeleton((run.store.path("natural") / "README.md").read_text().split("---\n", 2)[2])
    assert not [t for t in tags if re.match(r"<(script|img|iframe)|<a href=\"(?!https://arxiv.org)", t)]
    export(run.store.path("natural"), "nemo-manifest", tmp_path / "out")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", p.name) for p in (tmp_path / "out").rglob("*"))
    assert [p for p in tmp_path.rglob("*") if p.name.startswith("owned")] == []


def test_a_shell_that_opens_the_run_finds_nothing_to_run(done: Done) -> None:
    """Names below the run are harmless to any script that forgets its quotes."""
    names = subprocess.run(["find", str(done.run.store.root)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(names) > 50
    below = [n.removeprefix(str(done.run.store.root)) for n in names]
    assert all(re.fullmatch(r"[A-Za-z0-9._/-]*", n) for n in below)
