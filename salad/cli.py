"""The command line. Heavy imports happen inside the commands: `salad --help` answers at once."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from salad.errors import SaladError, redact, visible

app = typer.Typer(
    name="salad",
    help="Teach a text LLM to listen with little speech: measure where it disagrees with its text self, "
    "speak only that, distil, repeat (arXiv 2510.13632).\n\nStart with: salad run configs/demo.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
DEBUG = False
STOPPED = 130  # the shell's status for Ctrl+C; typer returns it in place of raising
SAID = "\nstopped; nothing half-done is left, and the same command goes on"
SIGNAL: int = signal.SIGINT  # what asked this process to stop

ConfigPath = Annotated[Path, typer.Argument(help="A YAML configuration, e.g. configs/demo.yaml.")]
Name = Annotated[str | None, typer.Option("--name", help="Run name, in place of the configuration's.")]
RunDir = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/demo, or its URL.")]
SelectorName = Annotated[
    str | None,
    typer.Option("--selector", help="Strategy: a name from `salad strategies`, file.py:Class or package.module:Class."),
]
BudgetSeconds = Annotated[float | None, typer.Option("--budget", help="Seconds of synthetic speech a round.")]

FromRun = Annotated[
    str | None,
    typer.Option("--from", metavar="RUN", help="Take over from this run whatever would come out the same, such as Stage I."),
]
RoundSeed = Annotated[
    int | None, typer.Option("--round-seed", help="Of what the rounds draw: repeat them from the same Stage I.", min=0)
]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False) -> None:
    global DEBUG
    DEBUG = debug


@app.command()
def run(
    config: ConfigPath,
    name: Name = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="How many selection rounds in all.")] = None,
    selector: SelectorName = None,
    budget: BudgetSeconds = None,
    round_seed: RoundSeed = None,
    from_run: FromRun = None,
) -> None:
    """Stage I, then every round; what is already done is not repeated.

    Stop it with Ctrl+C or kill it at any moment: the same command goes on where it was.

    Another strategy from the same Stage I: salad run configs/demo.yaml --from runs/demo --name chance --selector uniform
    """
    from salad import console
    from salad.pipeline.stages import open_run
    from salad.plan.show import announce

    overrides = {"name": name, "rounds": rounds, "select.selector": selector, "select.budget": budget, "round_seed": round_seed}
    run_ = open_run(config, overrides)
    with run_.store.lock():
        run_.store.bind(run_.config)
        _take_over(run_, from_run, run_.stages)
        announce(run_, run_.config, run_.stages)
        console.walk(run_, run_.stages)
    console.print_summary(run_)
    console.console.print(f"\nReport: {run_.store.path('report') / 'index.html'}", soft_wrap=True)


@app.command("round")
def one_round(
    config: ConfigPath,
    number: Annotated[int, typer.Argument(help="Which round, from 0; what it needs is run first.", min=0)],
    name: Name = None,
    selector: SelectorName = None,
    budget: BudgetSeconds = None,
    round_seed: RoundSeed = None,
    from_run: FromRun = None,
) -> None:
    """One round, and whatever before it is missing."""
    from salad import console
    from salad.pipeline.stages import open_run
    from salad.plan.show import announce

    overrides = {"name": name, "select.selector": selector, "select.budget": budget, "round_seed": round_seed}
    run_ = open_run(config, overrides, at_least=number + 1)
    with run_.store.lock():
        run_.store.bind(run_.config)
        _take_over(run_, from_run, run_.round_stages(number))
        announce(run_, run_.config.model_copy(update={"rounds": number + 1, "control": False}), run_.round_stages(number))
        console.walk(run_, run_.round_stages(number))
    console.print_summary(run_)


@app.command()
def report(folder: RunDir) -> None:
    """Write a run's report anew from what is published, and print its tables."""
    from salad import console
    from salad.pipeline.report import write_report
    from salad.pipeline.stages import existing_run

    run_ = existing_run(folder)
    with run_.store.lock():
        page = write_report(run_)
    console.print_summary(run_)
    console.console.print(f"\nReport: {page}", soft_wrap=True)


@app.command()
def status(
    folder: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's folder or URL.", show_default="all of runs/")
    ] = None,
) -> None:
    """What a run has done, is at and lacks, speech spent and left, the last error, disk; without RUN a line for each run.

    Data are not read: that is what salad verify does.
    """
    from salad import status as showing
    from salad.pipeline.stages import existing_run

    if folder is None:
        showing.show_all(Path("runs"))
    else:
        showing.show_run(existing_run(folder))


@app.command()
def verify(folder: RunDir) -> None:
    """Compare every file of a run with its checksum; exit status 1 where one differs."""
    from salad import status as showing
    from salad.pipeline.stages import existing_run

    raise typer.Exit(0 if showing.verify(existing_run(folder).store) else 1)


@app.command()
def gc(
    folder: RunDir,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what no manifest of a run names: half-done work of stages that will not be resumed, stale and stray files. Asks."""
    from salad import status as showing
    from salad.pipeline.stages import existing_run

    raise typer.Exit(0 if showing.collect(existing_run(folder).store, yes) else 1)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="A run, a round, a folder or a file of Parquet; or a URL in a run.")],
    where: Annotated[str | None, typer.Option("--where", help="Only rows for which this SQL condition holds.")] = None,
    sort: Annotated[
        list[str] | None, typer.Option("--sort", help="By this column; with a minus the largest first. Several, with commas.")
    ] = None,
    columns: Annotated[list[str] | None, typer.Option("--columns", help="Only these, with commas between; texts whole.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="How many rows.", min=1, show_default="10, of SQL 100, of an export all")
    ] = None,
    sql: Annotated[str | None, typer.Option("--sql", help="A SELECT of DuckDB from `samples`, `rejected`, `selection`.")] = None,
    play: Annotated[str | None, typer.Option("--play", metavar="ID", help="Show and play one; the start of its id does.")] = None,
    export_: Annotated[
        str | None, typer.Option("--export", help="csv or jsonl: the rows. wav: their sounds, one file each.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="With --export: a new file, or for wav a new folder.")] = None,
) -> None:
    """Look at selected samples: counts, columns, totals and the first rows; filter them, ask in SQL, listen, export.

    Works on a run, a round, any of its folders, and any Parquet. For example:

    salad inspect runs/demo/round-000

    salad inspect runs/demo --where "cer > 0.1 AND domain = 'law'" --sort -cer --columns id,cer,heard

    salad inspect runs/demo --sql "SELECT voice, sum(seconds) FROM samples GROUP BY voice"

    salad inspect runs/demo --sql "SELECT rejected, count(*) FROM rejected GROUP BY ALL ORDER BY 2 DESC"

    salad inspect runs/demo/round-000 --play 3fa9

    salad inspect runs/demo --where "cer > 0.2" --export wav --out misheard
    """
    from salad.inspect import Request
    from salad.inspect import inspect as look

    asked = Request(where, tuple(sort or ()), tuple(columns or ()), limit, sql, play, export_, out)
    if "://" in path:
        from salad.pipeline.store import here

        look(here(path), asked)
    else:
        look(Path(path), asked)


@app.command()
def export(
    folder: Annotated[str, typer.Argument(help="A run (the speech of all its rounds), or one speech folder; or its URL.")],
    to: Annotated[str, typer.Option("--to", help="hub, lhotse, nemo-manifest or webdataset.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder. It appears when everything is in it.")],
    repo: Annotated[
        str | None, typer.Option("--repo", help="With --to hub: also upload it, as USER/NAME; private, unless --public.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --repo: for everyone to see.")] = False,
    shard_rows: Annotated[int, typer.Option(help="Texts a file, of hub and webdataset.", min=1)] = 1000,
    language: Annotated[str, typer.Option(help="ISO 639-1 code of what is spoken.")] = "en",
) -> None:
    """Speech for other programs: Parquet for the Hugging Face hub, Lhotse cuts, a NeMo manifest, or WebDataset tars.

    Each comes with a dataset card: voices and their licences, seconds, budget, CER, how the texts were chosen, how to open it.

    For example: salad export runs/demo --to lhotse --out demo-cuts
    """
    from salad import console
    from salad.pipeline import export as exporting
    from salad.pipeline.export import hub
    from salad.pipeline.export.corpus import find_corpus
    from salad.pipeline.stages import Stage
    from salad.pipeline.store import here

    if repo is not None:
        if to != "hub":
            raise SaladError(f"--repo goes with --to hub, not with --to {to}", "leave one of the two out")
        hub.check_repo(repo)
    corpus = find_corpus(here(folder))
    bar = Stage("export", lambda out, progress: {}, {}, total=corpus.rows, unit="texts")
    with console.stage_progress(bar) as shown:
        options = exporting.Options(shard_rows, language=language, progress=console.interruptible(shown))
        written = exporting.export(corpus, to, out, options)
    said = f"{written.texts:,} texts in {written.files:,} files, {written.bytes / 1e6:,.1f} MB: {written.folder}"
    console.console.print(said, markup=False, soft_wrap=True)
    if written.left_out:
        lost = f"{len(written.left_out):,} texts had no usable sound: {written.folder / exporting.LEFT_OUT}"
        console.console.print(lost, markup=False, soft_wrap=True)
    if repo is not None:
        console.console.print(hub.push(out, repo, private=not public), markup=False, soft_wrap=True)


@app.command()
def chat(
    folder: Annotated[
        str, typer.Argument(help="A run, whose last trained student answers, or a checkpoint's folder; or its URL.")
    ],
    audio: Annotated[Path | None, typer.Option("--audio", help="A sound to hear: WAV, FLAC, OGG or MP3.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="Text after the sound; <audio> in it: the sound goes there.", show_default="ask"),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Of a run: stage-one, round-000, …", show_default="the last")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="How long an answer may be.", min=1)] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="0: always the likeliest token.", min=0)] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws, with a temperature.", min=0)] = 0,
) -> None:
    """Speak to a trained student, and read what it goes on with.

    For example: salad chat --audio question.wav runs/demo
    """
    from salad.chat import chat
    from salad.pipeline.store import here

    chat(here(folder), audio, prompt, checkpoint, max_new_tokens, temperature, seed)


@app.command()
def strategies() -> None:
    """Every selection strategy that can be named, where it comes from, and what it does.

    Name one with `salad run CONFIG --selector NAME`. Your own: file.py:Class, package.module:Class, or a package with the
    entry-point group `salad.selectors` (docs/selectors.md).
    """
    from rich.markup import escape

    from salad.console import console
    from salad.plugins import find, registered
    from salad.selectors.base import SELECTORS

    for name, found in registered("selector", SELECTORS).items():
        try:
            kind = find("selector", name, SELECTORS)
            said = (kind.__doc__ or sys.modules[kind.__module__].__doc__ or "").strip().splitlines() or [""]
            line = escape(said[0])
        except SaladError as e:
            line = f"[red]{escape(str(e))}[/]"
        console.print(f"[bold]{escape(name):<20}[/] {line}", soft_wrap=True)
        console.print(f"{'':<20} [dim]{escape(found.origin)} · {escape(found.target)}[/]", soft_wrap=True)


@app.command()
def voices(
    engine: Annotated[str | None, typer.Argument(help="Only this engine, all its voices: a name or file.py:Class.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of an engine with several: a name, a folder or a file.")] = None,
) -> None:
    """Every voice that can be named: its engine, language, rate, licence, and what a second of its speech costs here.

    All voices of Kokoro: salad voices kokoro. Of a Coqui model: salad voices coqui --model tts_models/en/vctk/vits
    """
    from salad.voices import show

    show(engine, model)


@app.command()
def simulate(
    folder: RunDir,
    strategies: Annotated[
        str,
        typer.Option(help="Names from `salad strategies`, file.py:Class or package.module:Class, with commas between."),
    ] = "uniform,importance,importance-diverse",
    texts: Annotated[int, typer.Option(help="Size of the simulated pool; 1,000,000 is fine.")] = 100_000,
    clusters: Annotated[int | None, typer.Option(help="How many clusters.", show_default="the run's")] = None,
    rounds: Annotated[int, typer.Option(help="How many rounds.")] = 4,
    budget: Annotated[
        float | None, typer.Option(help="Seconds of speech a round.", show_default="the run's, however large the pool")
    ] = None,
    probes: Annotated[int | None, typer.Option(help="Probes in each cluster.", show_default="as many as the run has")] = None,
    gamma: Annotated[float | None, typer.Option(help="γ of P_target.", show_default="the run's")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of the truth: from them come the errors. 1 while you develop.")] = 3,
    seed: Annotated[int, typer.Option(help="Another number, other draws.")] = 0,
    spread: Annotated[float, typer.Option(help="How far apart clusters are in log D, in units of the run's.")] = 1.0,
    local: Annotated[
        float | None,
        typer.Option(help="0: speech helps every text alike; 1: only texts near it.", show_default="fitted on the run's rounds"),
    ] = None,
    floor: Annotated[float, typer.Option(help="Share of D before round 0 that no speech removes: assumed.")] = 0.25,
    uneven: Annotated[float, typer.Option(help="How unevenly clusters learn: sd of the log of their speed.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the page and the rows.", show_default="RUN/simulation")] = None,
) -> None:
    """Strategies over rounds on a simulated pool, after a real run: residual D by budget, in seconds and without a model.

    The texts' geometry, the spread of D, its noise and how D falls with speech are the run's (docs/simulate.md says what of
    that is assumed). Every strategy meets the same draws; what counts is the paired difference to uniform.

    To develop a strategy: salad simulate runs/demo --strategies mine.py:Mine --texts 20000 --seeds 1
    """
    import os

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # draws are the threads; those of small matrices only wait for each other
    from salad import console
    from salad.pipeline.simulation import experiment
    from salad.pipeline.stages import Stage
    from salad.pipeline.store import here

    run_ = here(folder)
    names = tuple(filter(None, (name.strip() for name in strategies.split(","))))
    asked = experiment.Settings(names, texts, clusters, rounds, budget, probes, gamma, seeds, seed, spread, local, floor, uneven)
    out = run_ / "simulation" if out is None else out
    experiment.check_out(out)
    bar = Stage("simulate", lambda out, progress: {}, {}, total=experiment.total_steps(asked), unit="rounds")
    with console.stage_progress(bar) as shown:
        outcome = experiment.simulate(run_, asked, console.interruptible(shown))
        experiment.write(out, outcome)
    console.print_simulation(outcome)
    console.console.print(f"\nPage: {out / 'simulation.html'}", markup=False, soft_wrap=True)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN …", help="Folders or URLs of runs, or a selector's name: its runs below runs/."),
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", help="The run that the others are compared with, or `control`.", show_default="the first"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page.")] = Path("comparison"),
) -> None:
    """Was one run better than another, by how much, at what cost? Two or more, in tables and as a page.

    Text by text where the held-out texts are the same; what makes a comparison unfair stands at the top.

    For example: salad compare runs/demo runs/uniform
    """
    from salad import compare as comparing
    from salad import console

    page = comparing.compare(runs, to, out)
    console.console.print(f"\nPage: {page}", markup=False, soft_wrap=True)


@app.command("eval")
def evaluate(
    folder: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/demo, or its URL.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark", help="A name from --list, or a YAML file; again for more.", show_default="the run's, else continuation"
        ),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint", help="A checkpoint's folder; again for more.", show_default="untrained, Stage I, last round"
        ),
    ] = None,
    items: Annotated[
        int | None, typer.Option("--items", help="Questions of each benchmark.", min=4, show_default="the run's")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say which benchmarks have a name, and stop.")] = False,
) -> None:
    """Multiple choice by ear: Q on text, the cascade (ASR, then Q), students by ear, and the gap; D, M and F by domain.

    Prompts are spoken once, by the held-out voice; a second call computes only what is new. Figures: RUN/eval/eval.json
    """
    from salad import console
    from salad import evaluate as evaluating
    from salad.pipeline.stages import existing_run

    if list_:
        evaluating.show_known()
        return
    if folder is None:
        raise typer.BadParameter("name a run's folder, or --list")
    run_ = existing_run(folder)
    with run_.store.lock():
        wanted, stages, students = evaluating.evaluate(run_, benchmark or [], checkpoint or [], items)
        console.walk(run_, stages)
        found = evaluating.write(run_, wanted, students)
    evaluating.show(found)
    console.console.print(f"\nFigures: {run_.store.path('eval') / 'eval.json'}", markup=False, soft_wrap=True)


@app.command("plan")
def show_plan(
    config: ConfigPath,
    texts: Annotated[
        int | None, typer.Option("--texts", help="Texts of the pool.", min=1, show_default="from the sources")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, or a GPU such as h100.", show_default="what is here")
    ] = None,
    cores: Annotated[int | None, typer.Option("--cores", help="Processors.", min=1, show_default="those here")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="How many selection rounds in all.")] = None,
    budget: BudgetSeconds = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: exact numbers.")] = False,
) -> None:
    """What a configuration will take before it runs: texts, seconds of speech, hours, bytes, each with its formula.

    Nothing is loaded, fetched or written. For example: salad plan configs/qwen2.5-3b.yaml --device h100 --cores 16
    """
    from salad.plan import machine, plan, show

    found = plan(_load(config, {"rounds": rounds, "select.budget": budget}), machine(device, cores), texts)
    if as_json:
        typer.echo(show.as_json(found))
    else:
        show.show(found)


@app.command()
def doctor(config: ConfigPath) -> None:
    """Check that a configuration can run here; say what is missing and how to get it."""
    from salad.doctor import examine

    raise typer.Exit(0 if examine(_load(config, {})) else 1)


@app.command()
def serve(
    limit: Annotated[int, typer.Option(help="Flow runs at a time.", min=1)] = 1,
) -> None:
    """Serve the Prefect deployments salad-round, salad and salad-stage-one: then `prefect deployment run salad-round`."""
    from salad.flows.serve import serve_deployments

    serve_deployments(limit)


def _take_over(run_: Any, from_run: str | None, stages: Any) -> None:
    if from_run is None:
        return
    from salad import console
    from salad.pipeline.stages import take_over

    console.console.print(take_over(run_, from_run, stages), markup=False, soft_wrap=True)


def _load(config: Path, overrides: dict[str, Any]) -> Any:
    from salad.config import load_config

    return load_config(config, overrides)


def main() -> None:
    """Entry point: one line for an error that the user can act on, 130 for Ctrl+C, 143 for SIGTERM."""
    from salad.console import interrupted, show_cursor
    from salad.interrupts import end_within

    def interrupt(number: int, _: object) -> None:
        global SIGNAL
        SIGNAL = number
        interrupted.set()
        raise KeyboardInterrupt

    def swallowed(found: sys.UnraisableHookArgs) -> None:
        if not interrupted.is_set():
            sys.__unraisablehook__(found)

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    sys.unraisablehook = swallowed  # a callback from C cannot raise; it would print a traceback
    end_within(last_words=f"{show_cursor()}{SAID}\n")
    try:
        code = app(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as e:
        if DEBUG:
            raise
        sys.exit(_explain(e))
    sys.exit(_explain(KeyboardInterrupt()) if code == STOPPED else code if isinstance(code, int) else 0)


def _explain(error: BaseException) -> int:
    """Print what ended the command, on one line; returns the exit status."""
    from salad.artifact import MAKE_ROOM, disk_is_full
    from salad.console import errors, interrupted

    if interrupted.is_set() or isinstance(error, (KeyboardInterrupt, typer.Abort)):
        errors.print(SAID)
        return 128 + SIGNAL
    usage = getattr(error, "format_message", None)
    if isinstance(error, SaladError):
        text = str(error)
    elif disk_is_full(error):
        text = f"the disk is full ({error}): {MAKE_ROOM}"
    else:
        text = usage() if usage else f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)"
    errors.print("[red]error:[/] ", end="")
    errors.print(visible(redact(" ".join(text.split()))), markup=False, soft_wrap=True)
    return int(getattr(error, "exit_code", 1))
