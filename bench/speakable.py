"""Which library reads text for us, whether a listener gains by it, and what it does to real texts.

.venv/bin/python bench/speakable.py              # a few minutes on two cores; needs the asset packages

1. By rules: each library that is installed on tests/tts/speakable.tsv (the first column of words said), and `speakable`.
   pip install damga==1.0.5 kitten-text-processing==0.1.0 nemo-text-processing==1.2.0 normt2s==0.7.0 revonorm==1.0.0
   spokenform==0.4.5 utterwise==0.1.1 verbalis==0.1.0a1 voxnorm==0.5.1 wetext==0.1.8 (any of them; environments may differ:
   --python names interpreters to ask).
2. By ear: what the hibari voice makes of the same texts as written and as `speakable` gives them, heard by Whisper and
   by PocketSphinx; character error rate against the reading that is nearest to what was heard, over all kinds of readings.
3. The demo's texts: how many spans are plain, change or are refused, and spans a second of processor time.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

CASES = Path(__file__).parents[1] / "tests/tts/speakable.tsv"
GROUPS = {
    "numbers": "cardinal ordinal year decimal fraction range roman number".split(),
    "dates, times": ["date", "time"],
    "money, units": ["money", "unit"],
    "short forms": ["abbreviation", "acronym"],
    "addresses, symbols": ["address", "symbol"],
    "markup, marks": "markdown html emoji punctuation citation".split(),
}
SOURCES = ("recipes", "medicine", "law", "security", "encyclopedia")
PASSAGES, WORDS, SPAN = 20_000, (8, 60), (5, 15)
FAST, WITH_NUMBERS = 300_000, 3_000  # spans a second that we want, plain and with numbers


def cases() -> list[list[str]]:
    return [line.split("\t") for line in CASES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def by_words(text: str) -> str:
    text = re.sub(r"[^\w\s]", "", re.sub(r"[-–—_']", " ", text.lower()))
    return " ".join(re.sub(r"\b(hundred|thousand|million) and\b", r"\1", text).split())


def library(name: str) -> Callable[[str], str]:
    """A text reader by name; ImportError where its package is absent."""
    if name == "salad":
        from salad.tts.speakable import speakable

        return lambda text: speakable(text).text
    if name == "coqui":
        for absent in ("torchaudio", "torchcodec"):  # TTS asks only whether they are there
            stub = types.ModuleType(absent)
            stub.__spec__ = ModuleSpec(absent, None)
            sys.modules.setdefault(absent, stub)
        from TTS.tts.utils.text.cleaners import english_cleaners

        return english_cleaners
    module = __import__({"nemo": "nemo_text_processing", "kitten": "kitten_text_processing"}.get(name, name))
    if name == "damga":
        return module.TextNormalizer(lang="en").normalize
    if name == "kitten":
        return module.normalize_text
    if name == "nemo":
        from nemo_text_processing.text_normalization.normalize import Normalizer

        return Normalizer(input_case="cased", lang="en").normalize
    if name == "revonorm":
        return lambda text: module.normalize_text(text, "en")
    if name == "spokenform":
        return lambda text: module.prepare_text(text, language="en-us").text
    if name == "verbalis":
        return module.Verbalizer("en-us").process
    if name == "wetext":
        return module.Normalizer(lang="en", operator="tn").normalize
    if name == "hibari":
        from hibari.g2p.normalize import normalize

        return normalize
    return module.normalize


LIBRARIES = "salad coqui damga hibari kitten nemo normt2s revonorm spokenform utterwise verbalis voxnorm wetext".split()


def read_cases(name: str) -> dict[str, object]:
    """What a library makes of the cases, with its cost; run in a process of its own."""
    started = time.perf_counter()
    read = library(name)
    read("Warm in 12 places.")
    loaded = time.perf_counter()
    said = []
    for _, text, *_ in cases():
        try:
            said.append(read(text))
        except Exception as e:  # another's library may raise what it likes; here it counts as a wrong reading
            said.append(f"({type(e).__name__})")
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"said": said, "load": loaded - started, "rate": len(said) / (done - loaded), "peak": peak}


def by_rules(pythons: list[str]) -> None:
    from rich.table import Table

    table = Table(title=f"By rules: readings that are right, of {len(cases())}", title_justify="left", title_style="bold")
    for column in ("library", "right", *GROUPS, "texts/s", "load s", "peak MiB"):
        table.add_column(column, justify="left" if column == "library" else "right")
    for name in LIBRARIES:
        for python in pythons:
            done = subprocess.run([python, __file__, "--library", name], capture_output=True, text=True)
            if done.returncode == 0:
                break
        else:
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        right = Counter[str]()
        of = Counter[str]()
        for (kind, _, *readings), said in zip(cases(), found["said"], strict=True):
            group = next(g for g, kinds in GROUPS.items() if kind in kinds)
            of[group] += 1
            right[group] += by_words(said) in map(by_words, readings)
        cost = (f"{found['rate']:,.0f}", f"{found['load']:.2f}", f"{found['peak']:.0f}")
        table.add_row(name, str(right.total()), *(f"{right[g]}/{of[g]}" for g in GROUPS), *cost)
    console.print(table)


def by_ear() -> None:
    import numpy as np
    import torch
    from pocketsphinx import Decoder
    from rich.table import Table

    from salad.audio import resample
    from salad.tts.hibari import HibariEngine
    from salad.tts.quality import character_errors
    from salad.tts.speakable import speakable
    from salad.whisper import RATE, ShortWhisper

    torch.set_num_threads(1)
    engine, whisper, sphinx = HibariEngine(), ShortWhisper("openai/whisper-tiny.en", torch.float32), Decoder(samprate=RATE)

    def hear_with_sphinx(wave: np.ndarray) -> str:
        sphinx.start_utt()
        sphinx.process_raw((np.clip(wave, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        sphinx.end_utt()
        return sphinx.hyp().hypstr if sphinx.hyp() else ""

    heard: dict[tuple[str, str], list[str]] = {}
    for form in ("written", "spoken"):
        said = [text if form == "written" else speakable(text).text for _, text, *_ in cases()]
        waves = [resample(s.wave, s.rate, RATE) for s in engine.synthesize(said, "heart")]
        heard[form, "Whisper"] = whisper.transcribe(waves)
        heard[form, "PocketSphinx"] = [hear_with_sphinx(wave) for wave in waves]
    table = Table(title="By ear: character error rate as written → as spoken", title_justify="left", title_style="bold")
    table.add_column("kind")
    table.add_column("texts", justify="right")
    for who in ("Whisper", "PocketSphinx"):
        table.add_column(who, justify="right")

    def rate(form: str, who: str, kinds: list[str]) -> float:
        pairs = []
        for (kind, _, *readings), text in zip(cases(), heard[form, who], strict=True):
            if kind in kinds:
                pairs.append(min((character_errors(r, text) for r in readings), key=lambda c: c[0] / max(c[1], 1)))
        return sum(p[0] for p in pairs) / sum(p[1] for p in pairs)

    everything = [kind for kinds in GROUPS.values() for kind in kinds]
    for group, kinds in [*GROUPS.items(), ("all", everything)]:
        n = sum(kind in kinds for kind, *_ in cases())
        rates = (f"{rate('written', who, kinds):.3f} → {rate('spoken', who, kinds):.3f}" for who in ("Whisper", "PocketSphinx"))
        table.add_row(group, str(n), *rates)
    console.print(table)
    for i, (_, text, *readings) in enumerate(cases()):
        as_written, as_spoken = (heard[form, "Whisper"][i] for form in ("written", "spoken"))
        errors = [min(character_errors(r, h)[0] for r in readings) for h in (as_written, as_spoken)]
        if errors[0] != errors[1]:
            console.print(f"[dim]{errors[0]:>3} → {errors[1]:>2}[/]", escape("  |  ".join([text, as_written, as_spoken])))


def on_texts() -> bool:
    import pyarrow.parquet as pq
    from rich.table import Table

    from salad import assets
    from salad.pipeline.clean import clean, passages
    from salad.seeds import generator
    from salad.tts.speakable import is_plain, speakable

    table = Table(title=f"The demo's texts: {PASSAGES:,} passages each, in spans", title_justify="left", title_style="bold")
    for column in ("source", "spans", "plain", "changed", "refused", "plain/s", "others/s", "passages refused", "why (passages)"):
        table.add_column(column, justify="left" if column in {"source", "why (passages)"} else "right")
    rates = []
    for source in SOURCES:
        column = pq.read_table(assets.text_file(source), columns=["text"]).column("text")
        texts = [p for text in column.to_pylist() for p in passages(clean(text), *WORDS)][:PASSAGES]
        rng = generator(0, "spans", source)
        spans = []
        for words in map(str.split, texts):
            while words:
                n = int(rng.integers(SPAN[0], SPAN[1] + 1))
                spans.append(" ".join(words[:n]))
                words = words[n:]
        plain, others = ([s for s in spans if is_plain(s) is kind] for kind in (True, False))
        speeds, read = [], []
        for part in (plain, others):
            started = time.process_time()  # a busy machine's other work does not count
            read = [speakable(s) for s in part]
            speeds.append(len(part) / (time.process_time() - started))
        rates.append(speeds)
        refused = sum(s.problem is not None for s in read)
        changed = sum(s.problem is None and s.text != span for s, span in zip(read, others, strict=True))
        why = Counter(p for p in (speakable(text).problem for text in texts) if p)
        table.add_row(
            source, f"{len(spans):,}", f"{len(plain) / len(spans):.1%}", f"{changed / len(spans):.1%}", f"{refused:,}",
            *(f"{v:,.0f}" for v in speeds), str(why.total()), ", ".join(f"{k} {n}" for k, n in why.most_common()),
        )  # fmt: skip
    console.print(table)
    slowest = [min(column) for column in zip(*rates, strict=True)]
    for what, value, limit in zip(("plain spans a second", "other spans a second"), slowest, (FAST, WITH_NUMBERS), strict=True):
        console.print(f"{'[green]ok[/]    ' if value > limit else '[red]missed[/]'} {what}: {value:,.0f} (wanted {limit:,})")
    return slowest[0] > FAST and slowest[1] > WITH_NUMBERS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], help="another interpreter, which has some of the libraries")
    parser.add_argument("--only", choices=["rules", "ear", "texts"])
    parser.add_argument("--library", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library:
        print(json.dumps(read_cases(options.library)))
        return 0
    global console, escape
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, width=170)
    good = True
    if options.only in {None, "rules"}:
        by_rules([sys.executable, *options.python])
    if options.only in {None, "ear"}:
        by_ear()
    if options.only in {None, "texts"}:
        good = on_texts()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
