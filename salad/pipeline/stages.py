"""The run as a list of stages: what each is called, what it reads, what its bytes depend on.

`salad run` walks the list in one process; the Prefect flow walks the same list with a task a stage. A stage
whose artefact is valid and has the right key is not repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import salad
from salad import assets
from salad.artifact import Manifest, make_key
from salad.config import Config, Source, Voice, load_config
from salad.pipeline.benchmarks import load_benchmarks
from salad.pipeline.models import Models, quiet_libraries
from salad.pipeline.store import Store, open_store
from salad.pipeline.streams import file_sizes
from salad.plugins import fingerprint
from salad.selectors.base import SELECTORS, make_selector
from salad.tts.base import ENGINES, make_engine

if TYPE_CHECKING:
    from salad.pipeline.benchmarks import Wanted
    from salad.trainer.data import Hearing

log = logging.getLogger(__name__)
Progress = Callable[..., None]  # how much is done, and of how much where only the stage can tell
CODE_VERSION = f"{salad.__version__}/6"  # raise the number when a stage's bytes change for equal inputs


@dataclass(frozen=True)
class Stage:
    """One artefact: `build(folder, progress) -> meta` writes its files."""

    name: str
    build: Callable[[Path, Progress], dict[str, Any]]
    depends: dict[str, Any]  # the part of the configuration that its bytes depend on
    inputs: tuple[str, ...] = ()
    total: float | None = None  # of what `progress` counts, where known before
    unit: str = ""
    network: bool = False  # it may fetch models or data: tried again when the network fails (patience.py)


class Run:
    """A configuration, its store, its models and its stages."""

    def __init__(self, config: Config, models: Models | None = None, store: Store | None = None) -> None:
        self.config = config
        self.store = store or open_store(config.run_dir, config.storage)
        self.models = models or Models(config)

    def with_rounds(self, rounds: int) -> Run:
        """The same run with so many rounds: its store, locked or not, and the models that are loaded."""
        return Run(self.config.model_copy(update={"rounds": rounds}), self.models, self.store)

    def key(self, stage: Stage) -> str:
        return self.key_of(stage, self._input_keys(stage))

    def _input_keys(self, stage: Stage) -> dict[str, str]:
        return {name: self.store.manifest(name).key for name in stage.inputs}

    def key_of(self, stage: Stage, inputs: dict[str, str]) -> str:
        """The stage's key, given the keys of its inputs."""
        return make_key(stage=stage.name, config=stage.depends, inputs=inputs, code=CODE_VERSION, seed=self.config.seed)

    def done(self, stage: Stage) -> Manifest | None:
        """The stage's manifest when it need not run; reads the inputs' manifests and every byte of its own."""
        return self.store.valid(stage.name, self.key(stage))

    def execute(self, stage: Stage, progress: Progress = lambda *n: None) -> tuple[Manifest, bool]:
        """(manifest, whether it had to be built). Inputs must be published."""
        inputs = self._input_keys(stage)
        key = self.key_of(stage, inputs)
        if found := self.store.valid(stage.name, key):
            return found, False
        if fault := self.store.damage(stage.name, key):
            log.warning("%s: making '%s' again", fault, stage.name)
        blank = Manifest(stage.name, key, stage.depends, inputs, CODE_VERSION, self.config.seed, 0.0)
        with self.store.working(stage.name):
            for name in inputs:
                self.store.fetch(name)
            return self.store.publish(stage.name, blank, lambda out: stage.build(out, progress)), True

    def adopt(self, donor: Store, stages: Sequence[Stage]) -> list[str]:
        """Take over from another run what would come out the same here: artefacts of the same key. Their names."""
        taken = []
        for stage in stages:
            if stage.name == "report" or any(self.store.published(name) is None for name in stage.inputs):
                continue  # a report shows the run's own name; what lacks an input is another run's from here on
            key = self.key(stage)
            here = self.store.published(stage.name)
            if (here is None or here.key != key) and (found := donor.valid(stage.name, key)):
                self.store.adopt(stage.name, donor, found)
                taken.append(stage.name)
        return taken

    @cached_property
    def stages(self) -> list[Stage]:
        """Every stage in an order in which inputs come before what needs them."""
        from salad.pipeline import benchmarks

        c = self.config
        stages = [*self._pool_stages(), *benchmarks.stages(self, self._benchmarks), *self._stage_one()]
        for r in range(c.rounds):
            stages += self._round(r)
        if c.control:
            stages += self._control()
        return [*stages, self._report([s.name for s in stages])]

    def round_stages(self, round_: int) -> list[Stage]:
        """What one round needs: everything before it that is missing, and its own stages."""
        return self.stages_until(f"round-{round_:03d}/metrics")

    def stages_until(self, name: str) -> list[Stage]:
        """That stage and everything before it."""
        return self.stages[: [s.name for s in self.stages].index(name) + 1]

    @cached_property
    def _benchmarks(self) -> list[Wanted]:
        from salad.pipeline import benchmarks

        return benchmarks.wanted(self)

    # -- helpers that the stages below share ---------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.store.path(name)

    def _part(self, *names: str) -> dict[str, Any]:
        whole = self.config.model_dump(mode="json")
        picked: dict[str, Any] = {}
        for name in names:
            top, _, below = name.partition(".")
            picked[name] = whole[top][below] if below else whole[top]
        return picked

    def _speech(
        self,
        name: str,
        order: Callable[[], Any],
        inputs: tuple[str, ...],
        budget: float | None = None,
        share: float = 1.0,
        judged: bool = True,
    ) -> Stage:
        from salad.pipeline import synthesize

        heldout = self.config.speech.heldout_voice
        voices = [heldout] if heldout and name == "heldout" else self.config.speech.voices

        def build(out: Path, progress: Progress) -> dict[str, Any]:
            session = synthesize.Session(self.models, voices, share, judged)
            return synthesize.build_speech(out, name, order(), session, progress)

        parts = {"speech": self._spoken_by(*voices), **self._part("interleave", "models.asr", "probe", "natural")}
        if name.startswith("round-"):
            parts |= self._part("select.budget")
        elif name in self.waves:
            parts |= self._part("score", "select.gamma", "select.target_ess")
        return Stage(name, build, {**parts, "share": share}, inputs, budget, "s of speech", network=True)

    def _spoken_by(self, *voices: Voice) -> dict[str, Any]:
        """What the sound of these voices depends on: not how many processes make it."""
        speech = self.config.speech.model_dump(mode="json", include={"cut", "quality", "shard_rows"})
        return {**speech, **self._voices(*voices)}

    def _voices(self, *voices: Voice) -> dict[str, Any]:
        code = [fingerprint("engine", v.engine, ENGINES) for v in voices]
        return {"voices": [v.model_dump(mode="json") for v in voices], "code": code}

    def _prepared(self, name: str, speech: str, teaches: bool = False) -> Stage:
        def build(out: Path, progress: Progress) -> dict[str, Any]:
            from salad.pipeline import distil

            targets = distil.training_targets(self.config) if teaches else "states"
            return distil.build_prepared(out, self.config, self.models, self._path(speech), progress, targets)

        parts = self._part("models.lm", "models.encoder", "train.dtype", "interleave.max_positions", "student.adapter")
        if teaches:
            parts |= self._targets
        return Stage(name, build, parts, (speech,), unit="texts", network=True)

    @property
    def _drawn(self) -> dict[str, Any]:
        """The seed of the rounds, where it is not the run's."""
        return {} if self.config.of_rounds.seed == self.config.seed else self._part("round_seed")

    @property
    def _targets(self) -> dict[str, Any]:
        """What the teacher targets of training texts depend on."""
        cached = ["train.top_k", "train.temperature"] if self.config.train.teacher == "cached" else []
        return self._part("train.teacher", *cached)

    def _checkpoint(self, name: str, start: str | None, sources: dict[str, list[str]], stable_steps: int) -> Stage:
        c = self.config.of_rounds if start else self.config
        probes = "prepared/probe" if self.config.train.early_stop else None

        def build(out: Path, progress: Progress) -> dict[str, Any]:
            from salad.pipeline import distil

            folders = {kind: [self._path(n) for n in names] for kind, names in sources.items()}
            first = self._path(start) / "stable" if start else None
            by = self._path(probes) if probes else None
            return distil.build_checkpoint(out, c, self.models, first, folders, stable_steps, name, progress, by)

        train = c.train.model_dump(mode="json", exclude={"save_steps", "launch", "stage_one_steps", "round_steps"})
        inputs = (*(n for names in sources.values() for n in names), *filter(None, (start, probes)))
        steps = stable_steps + c.train.decay_steps
        drawn = self._drawn if start else {}
        depends = {"train": train, "stable_steps": stable_steps, **self._part("student", "models"), **drawn}
        return Stage(name, build, depends, inputs, steps, "steps", network=True)

    def _metrics(self, name: str, checkpoint: str | None, hearing: Hearing = "speech") -> Stage:
        asked = self._benchmarks

        def build(out: Path, progress: Progress) -> dict[str, Any]:
            from salad.pipeline import metrics

            final = self._path(checkpoint) / "final" if checkpoint else None
            measured_on = (self._path("heldout"), self._path("prepared/heldout"))
            spoken = [one.of(self) for one in asked]
            return metrics.build_metrics(out, self.config, self.models, final, *measured_on, hearing, progress, spoken)

        inputs = ("heldout", "prepared/heldout", *([checkpoint] if checkpoint else []), *(n for a in asked for n in a.artefacts))
        depends = {"hearing": hearing, **self._part("student", "models", "train.dtype", "evaluate.bootstrap")}
        return Stage(name, build, depends, inputs, self.config.probe.heldout, "texts", network=True)

    # -- the stages ----------------------------------------------------------------------------------------

    def _pool_stages(self) -> list[Stage]:
        from salad.pipeline import cluster, embed, pool, probe

        c, at = self.config, self._path

        def files(sources: list[Source]) -> dict[str, int]:
            return {name: size for source in sources for name, size in file_sizes(source.dataset).items()}

        def passages(out: Path, progress: Progress) -> dict[str, Any]:
            return pool.build_pool(out, self.models, progress)

        def embeddings(out: Path, progress: Progress) -> dict[str, Any]:
            return embed.build_embeddings(out, self.models, at("pool"), progress)

        def named_stage(name: str, sources: list[Source]) -> Stage:
            parts = self._part("models.embedder", "train.dtype", "pool.min_words", "pool.max_words", f"select.{name}")
            build = lambda out, progress: embed.build_named(out, self.models, sources, progress)  # noqa: E731
            return Stage(name, build, {**parts, "files": files(sources)}, unit="texts", network=True)

        def clusters(out: Path, progress: Progress) -> dict[str, Any]:
            return cluster.build_clusters(out, c, at("embeddings"), progress)

        probes = self._speech(
            "probe", lambda: probe.probe_order(c, at("pool"), at("clusters")), ("pool", "clusters"), judged=False
        )
        heldout = self._speech(
            "heldout",
            lambda: probe.heldout_order(c, at("pool"), at("clusters"), [at("probe")]),
            ("pool", "clusters", "probe"),
            judged=False,
        )
        return [
            Stage(
                "pool",
                passages,
                {
                    **self._part("pool", "interleave", "speech.cut"),
                    **self._voices(*c.speech.voices),
                    "files": files(c.pool.sources),
                },
                unit="passages",
                network=True,
            ),
            Stage("embeddings", embeddings, self._part("models.embedder", "train.dtype"), ("pool",), unit="texts", network=True),
            *(named_stage(name, sources) for name, sources in self._named.items()),
            Stage("clusters", clusters, self._part("cluster"), ("embeddings",), unit="texts"),
            probes,
            heldout,
            self._prepared("prepared/probe", "probe"),
            self._prepared("prepared/heldout", "heldout"),
            self._map(),
        ]

    def _stage_one(self) -> list[Stage]:
        from salad.pipeline import natural, probe

        c, at = self.config, self._path
        if c.natural.shards or c.natural.recordings:
            spoken = natural.stage(self)
        else:
            spoken = self._speech(
                "natural",
                lambda: probe.natural_order(c, at("pool"), at("clusters"), [at("probe"), at("heldout")]),
                ("pool", "clusters", "probe", "heldout"),
                budget=c.natural.seconds,
                share=c.natural.asr_share,
            )
        stages = [spoken, self._prepared("prepared/natural", "natural", teaches=True)]
        if self._reads_text:

            def build(out: Path, progress: Progress) -> dict[str, Any]:
                from salad.pipeline import distil

                wanted = c.train.batch_size * c.train.accumulate * c.train.stage_one_steps
                taken = [at("probe"), at("heldout"), at("natural")]
                rows = probe.text_only_rows(c, at("pool"), at("clusters"), taken, wanted)
                return distil.build_prepared_text(out, c, self.models, rows, progress)

            parts = self._part("train.batch_size", "train.accumulate", "train.stage_one_steps", "models", "train.dtype")
            parts |= self._targets
            inputs = ("pool", "clusters", "probe", "heldout", "natural")
            stages.append(Stage("prepared/text", build, parts, inputs, unit="texts", network=True))
        return [
            *stages,
            self._metrics("before/no-speech", None, hearing="nothing"),
            self._metrics("before/untrained", None),
            self._checkpoint("stage-one/checkpoint", None, self._sources(0), c.train.stage_one_steps),
            self._metrics("stage-one/metrics", "stage-one/checkpoint"),
            *(stage for wave in range(1, len(self.waves) + 1) for stage in self._wave(wave)),
        ]

    @property
    def waves(self) -> list[str]:
        """Speech artefacts of the probes that are placed by what is known after Stage I."""
        return [f"probe-{w}/speech" for w in range(1, self.config.probe.waves + 1)] if self.config.probe.budget else []

    def aside(self, waves: int | None = None) -> list[str]:
        """Speech artefacts that measure and never teach, after so many waves of probes (None: all)."""
        return ["probe", "heldout", *self.waves[:waves]]

    def trained(self, rounds: int = 0) -> list[str]:
        """Speech artefacts of pool texts that teach, after so many rounds."""
        natural = ["natural"] if self.config.natural.domains else []
        return [*natural, *(f"round-{r:03d}/speech" for r in range(rounds))]

    def spoken(self, rounds: int = 0, waves: int | None = None) -> list[str]:
        """Speech artefacts whose texts are taken: `aside` and `trained`."""
        return [*self.aside(waves), *self.trained(rounds)]

    @property
    def _named(self) -> dict[str, list[Source]]:
        """Texts beside the pool, by the stage that embeds them."""
        select = self.config.select
        return {name: found for name, found in (("evaluation", select.evaluation), ("target", select.target)) if found}

    def _wave(self, wave: int) -> list[Stage]:
        """Score the probes so far with Stage I's student, speak more where that leaves P_target least sure."""
        from salad.pipeline import probe

        c, at, here = self.config, self._path, f"probe-{wave}"
        probes = ["probe", *self.waves[: wave - 1]]
        taken = self.spoken(waves=wave - 1)

        def more() -> Any:
            speech, scores = [at(name) for name in probes], at(f"{here}/scores")
            return probe.wave_order(c, wave, at("pool"), at("clusters"), scores, speech, [at(name) for name in taken])

        known = f"probe-{wave - 1}/scores" if wave > 1 else None
        return [
            self._scores(f"{here}/scores", "stage-one/checkpoint", probes, known),
            self._speech(f"{here}/speech", more, ("pool", "clusters", f"{here}/scores", *taken), judged=False),
            self._prepared(f"prepared/{here}", f"{here}/speech"),
        ]

    def _scores(self, name: str, checkpoint: str, probes: list[str], known: str | None) -> Stage:
        """known: scores of some of these probes by the same checkpoint."""
        from salad.pipeline import score

        c, at = self.config, self._path
        prepared = ["prepared/" + p.removesuffix("/speech") for p in probes]

        def build(out: Path, progress: Progress) -> dict[str, Any]:
            sets = [score.ProbeSet(at(speech), at(ready)) for speech, ready in zip(probes, prepared, strict=True)]
            return score.build_scores(
                out, c, self.models, at("pool"), at("embeddings"), at("clusters"), sets, at(checkpoint) / "final",
                at(known) if known else None, progress,
            )  # fmt: skip

        parts = self._part("score", "select.gamma", "select.target_ess", "cluster.k")
        inputs = ("pool", "embeddings", "clusters", *probes, *prepared, checkpoint, *([known] if known else []))
        return Stage(name, build, parts, inputs, unit="probes", network=True)

    @property
    def _reads_text(self) -> bool:
        return self.config.student.lm != "frozen" and self.config.train.mix.text > 0

    def _sources(self, rounds: int) -> dict[str, list[str]]:
        """Prepared folders by kind, with the synthetic speech of that many rounds."""
        sources = {"natural": ["prepared/natural"]}
        if rounds:
            sources["synthetic"] = [f"prepared/round-{r:03d}" for r in range(rounds)]
        if self._reads_text:
            sources["text"] = ["prepared/text"]
        return sources

    def _round(self, r: int) -> list[Stage]:
        from salad.pipeline import select

        c, at = self.config, self._path
        here, before = f"round-{r:03d}", f"round-{r - 1:03d}" if r else "stage-one"
        known = f"probe-{len(self.waves)}/scores" if self.waves and r == 0 else None

        scores = [f"round-{p:03d}/scores" for p in range(r + 1)]
        aside, trained, named = self.aside(), self.trained(r), self._named

        def selection(out: Path, progress: Progress) -> dict[str, Any]:
            inputs = select.Inputs(
                at("pool"), at("embeddings"), at("clusters"), [at(n) for n in scores], [at(n) for n in aside],
                [at(n) for n in trained], *(at(n) if n in named else None for n in ("evaluation", "target")),
            )  # fmt: skip
            return select.build_selection(out, c.of_rounds, r, inputs, progress)

        def chosen() -> Any:
            return select.selection_order(at(f"{here}/selection"), c.select.budget)

        return [
            self._scores(f"{here}/scores", f"{before}/checkpoint", ["probe", *self.waves], known),
            Stage(
                f"{here}/selection",
                selection,
                {
                    **self._part("select", "score.signal"),
                    "code": fingerprint("selector", c.select.selector, SELECTORS),
                    **self._drawn,
                },
                ("pool", "embeddings", "clusters", *scores, *aside, *trained, *named),
                unit="texts",
            ),
            self._speech(f"{here}/speech", chosen, (f"{here}/selection",), budget=c.select.budget),
            self._prepared(f"prepared/{here}", f"{here}/speech", teaches=True),
            self._checkpoint(f"{here}/checkpoint", f"{before}/checkpoint", self._sources(r + 1), c.train.round_steps),
            self._metrics(f"{here}/metrics", f"{here}/checkpoint"),
        ]

    def _control(self) -> list[Stage]:
        """Stage I data alone for as many steps as all the rounds together: what the steps gave without the choice."""
        t = self.config.train
        steps = self.config.rounds * t.round_steps
        return [
            self._checkpoint("control/checkpoint", "stage-one/checkpoint", self._sources(0), steps),
            self._metrics("control/metrics", "control/checkpoint"),
        ]

    def _map(self) -> Stage:
        from salad.pipeline.projection import build_map

        def build(out: Path, progress: Progress) -> dict[str, Any]:
            at = self._path
            return build_map(out, at("pool"), at("embeddings"), at("clusters"), self.config.seed)

        return Stage("map", build, {}, ("pool", "embeddings", "clusters"))

    def _report(self, names: list[str]) -> Stage:
        from salad.pipeline.report import build_report

        return Stage("report", lambda out, p: build_report(out, self, p), {"rounds": self.config.rounds}, tuple(names))


def open_run(config: str | Path, overrides: dict[str, Any], at_least: int = 1) -> Run:
    """The run of a configuration file, of that many rounds or more. Overrides: as in `load_config`."""
    loaded = load_config(config, overrides)
    if loaded.rounds < at_least:
        loaded = load_config(config, {**overrides, "rounds": at_least})
    quiet_libraries()
    _check_names(loaded)
    return Run(loaded)


def existing_run(place: str) -> Run:
    """The run at a local path or a URL, with the configuration that it was written with."""
    store = open_store(place if "://" in place else str(Path(place).resolve()))
    config = store.config()
    runs_dir, _, name = str(store).rpartition("/")
    return Run(config.model_copy(update={"runs_dir": runs_dir, "name": name}))


def take_over(run: Run, place: str, stages: Sequence[Stage]) -> str:
    """`Run.adopt` from the run at a local path or a URL; says how much came of it."""
    donor = existing_run(place).store
    taken = run.adopt(donor, stages)
    return f"{len(taken)} of {len(stages)} stages come out the same as in {donor}, and are taken over"


def _check_names(config: Config) -> None:
    """Names that would only be looked up after minutes of work: SaladError at once when one is wrong."""
    make_selector(config.select.selector, config.select.options)
    for voice in config.speech.all_voices:
        make_engine(voice.engine, voice.voice, voice.model)
    load_benchmarks(config.evaluate.benchmarks)
    for name in filter(None, config.models.model_dump().values()):
        assets.check_name(name)
