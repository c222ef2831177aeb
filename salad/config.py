"""The whole configuration on one page: YAML in, unknown keys refused, every default shown here."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from salad.errors import ConfigError, nearest, redact

SECRET = re.compile(r"secret|token|password|passwd|credential|(^|_)(key|sas|auth)($|_)|connection_string", re.IGNORECASE)


def _increasing(pair: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= pair[0] <= pair[1]:
        raise ValueError(f"wants 1 <= low <= high, got {list(pair)}")
    return pair


WordRange = Annotated[tuple[int, int], AfterValidator(_increasing)]


def without_credentials(data: Any, at: str = "") -> Any:
    """The same data. ValueError where a text in it is a URL with credentials: all of it is written into every run's files."""
    if isinstance(data, str) and redact(data) != data:
        raise ValueError(
            f"'{at}' is a URL with credentials in it: they belong in the environment or in fsspec's own configuration"
        )
    if isinstance(data, dict):
        for key, value in data.items():
            without_credentials(value, f"{at}.{key}" if at else str(key))
    if isinstance(data, list):
        for i, value in enumerate(data):
            without_credentials(value, f"{at}.{i}")
    return data


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_credentials(cls, data: Any) -> Any:
        return without_credentials(data)


class Source(Part):
    """Texts: a hub dataset, a Parquet / JSON-lines / text file or glob, or `packaged:NAME`."""

    dataset: str  # hub name, file or glob (Parquet, JSON lines, text), or packaged:NAME
    subset: str | None = None  # of a hub dataset that has several
    split: str = "train"  # of a hub dataset
    text_column: str = "text"  # where the text is
    domain: str | None = None  # one name for all texts of the source; or a column of it, below
    domain_column: str | None = None  # where a text's domain is; the report uses it, the method never does
    limit: int | None = Field(None, ge=1)  # how many passages are kept of this source; None: all


class Models(Part):
    """Hub names or local folders; `salad/assets.py` finds them in cache, packages or on the hub."""

    lm: str  # the text LLM: the teacher, and what the student starts from
    encoder: str  # the student's ears, frozen: a Whisper, a Mimi, or `logmel`, which needs no download
    embedder: str  # a sentence-transformers model: clusters and near repeats are seen in its space
    asr: str | None = None  # judges the audio; None: no CER


class Pool(Part):
    """The texts: cut into passages of whole sentences, cleaned, each once."""

    sources: list[Source] = Field(min_length=1)  # where the texts come from
    min_words: int = Field(12, ge=2)  # of a passage: shorter sentences are joined
    max_words: int = Field(48, ge=4)  # of a passage: longer texts are cut between sentences
    near_duplicate: float | None = Field(0.8, gt=0, lt=1)  # Jaccard of word trigrams from which one of two texts goes; None: off

    @model_validator(mode="after")
    def _ordered(self) -> Pool:
        if self.max_words < 2 * self.min_words:
            raise ValueError(f"max_words ({self.max_words}) must be at least twice min_words ({self.min_words})")
        return self


class Recordings(Part):
    """Recorded speech with transcripts: a hub dataset, an audio folder with metadata, or Lhotse cuts (docs/natural.md)."""

    dataset: str  # hub name, Parquet glob, folder with metadata.csv / .jsonl / .parquet, or *.jsonl(.gz) of Lhotse cuts
    subset: str | None = None  # of a hub dataset that has several
    split: str = "train"  # of a hub dataset, or the folder below that has metadata
    audio_column: str = "audio"  # where the sound is
    text_column: str = "text"  # where the transcript is
    words_column: str | None = None  # [{word, start, end}] in seconds; None: whole utterances are spans
    group_column: str | None = None  # speaker or recording: only utterances of one group stand side by side
    limit: int | None = Field(None, ge=1)  # how many utterances are read; None: all


class Natural(Part):
    """Stage I speech: recordings, shards in our own format, or pool texts of some domains spoken in their stead."""

    recordings: Recordings | None = None  # people who speak, with transcripts …
    shards: str | None = None  # … or a folder of shards that are cut already (docs/shards.md) …
    domains: list[str] = []  # … or domains of the pool whose texts a voice speaks in their stead
    seconds: float = Field(3600, gt=0)  # of speech: where it stops
    asr_share: float = Field(0.1, ge=0, le=1)  # share of these samples whose audio the ASR checks


class Cluster(Part):
    """Balanced k-means on sentence embeddings (paper: 128 clusters)."""

    k: int = Field(128, ge=1)  # how many clusters
    iterations: int = Field(20, ge=1)  # of k-means
    max_over_mean: float = Field(1.05, gt=1)  # how large the largest cluster may be, in mean sizes


class Probe(Part):
    """Spoken texts that tell where the student disagrees; never trained on."""

    per_cluster: int = Field(8, ge=2)  # in every cluster, before Stage I
    budget: float | None = Field(None, gt=0)  # seconds of all probes: what is left goes where P_target is least sure
    waves: int = Field(3, ge=1)  # in which the rest of the budget is spent, after Stage I
    heldout: int = Field(160, ge=2)  # never selected, never trained on, never used to choose


class Flags(Part):
    """A cluster whose character error rate is out of line leaves P_target: its D may be the voice's fault."""

    max_cer: float = Field(0.3, gt=0)  # above it always: the outliers may be half of all clusters
    outlier: float = Field(5.0, gt=0)  # robust standard deviations above the median cluster …
    least: float = Field(0.15, ge=0)  # … but never below this: eight clean probes stay under 0.08 in 99.9 % of clusters


class Score(Part):
    """How the divergence of each cluster is measured and estimated (docs/signal.md)."""

    signal: Literal["divergence", "misalignment", "excess"] = "divergence"  # what D(c) measures: D, M, or excess: D - F
    estimate: Literal["content", "surrogate", "shrunk", "plain"] = "content"  # of D(c) from few probes: docs/signal.md
    flags: Flags = Flags()  # when a cluster leaves P_target


class Select(Part):
    """What is spoken in a round: a strategy and its budget (docs/selectors.md)."""

    selector: str = "importance-diverse"  # a name from `salad strategies`, file.py:Class or package.module:Class
    options: dict[str, Any] = {}  # the strategy's own settings: what its class is made with
    budget: float = Field(gt=0, allow_inf_nan=False)  # seconds of synthetic speech a round
    gamma: float = Field(5.0, ge=0)  # P_target ∝ P_web · D^γ; 0 is uniform
    target_ess: float | None = Field(None, ge=1)  # in place of gamma: how many clusters P_target shall amount to, 1/Σp²
    near: float | None = Field(0.95, gt=0, le=1)  # cosine from which two texts count as one; None: no two do
    repeats: int = Field(1, ge=1)  # of texts that count as one, how many are chosen at most, over all rounds
    evaluation: list[Source] = []  # your test sets: what is near one of their texts is never chosen
    target: list[Source] = []  # texts to become good at, for strategies that select towards them (crisp)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Select:
        if self.selector == "crisp" and not self.target:
            raise ValueError("selector crisp selects towards select.target: name texts there")
        if self.evaluation and self.near is None:
            raise ValueError("select.evaluation keeps out what is near its texts, but select.near is off")
        return self


class Voice(Part):
    """A voice and its share of the texts; with pitch or tempo changed it stands for another speaker."""

    engine: str = "hibari"  # a name from `salad voices`, file.py:Class or package.module:Class
    voice: str = "heart"  # a voice's name in that engine
    model: str | None = None  # of an engine that has several: a name, a folder or a file
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)  # its share of the texts, against the other voices' weights
    pitch: float = Field(0.0, ge=-12, le=12)  # semitones
    tempo: float = Field(1.0, ge=0.5, le=2)  # 2: twice as fast

    @property
    def label(self) -> str:
        """What reports and shards call it."""
        pitch = f" pitch{self.pitch:+g}" if self.pitch else ""
        tempo = f" tempo{self.tempo:g}" if self.tempo != 1 else ""
        return f"{self.voice}{pitch}{tempo}"

    @property
    def who(self) -> tuple[str, str | None, str, float, float]:
        """What makes it this voice and no other: all but its weight."""
        return self.engine, self.model, self.voice, self.pitch, self.tempo


class Quality(Part):
    """What a synthesised sample must be, or it is turned down with its reason and replaced."""

    max_cer: float = Field(0.3, gt=0)  # character error rate of the ASR on the spans, at most; only where models.asr is set
    min_words_per_second: float = Field(1.5, gt=0)  # slower is turned down
    max_words_per_second: float = Field(6.0, gt=0)  # faster is turned down
    max_edge_silence: float = Field(0.3, gt=0)  # seconds before the first and after the last word of a span, once trimmed
    max_pause: float = Field(1.5, gt=0)  # seconds of silence inside a span
    max_clipped: float = Field(1e-4, ge=0, lt=1)  # share of samples at full scale before levelling
    min_seconds: float = Field(0.2, gt=0)  # of every span, at least
    max_seconds: float = Field(30.0, gt=0, le=30)  # of every span, at most; Whisper hears no more than 30
    level: float = Field(-26.0, ge=-60, le=-10)  # dBFS of active speech, to which every sample is brought (ITU-T P.56)


class Speech(Part):
    """Voices, what is asked of their speech, and the processes that speak (docs/voices.md)."""

    voices: list[Voice] = Field([Voice()], min_length=1)  # each text has one of them, by seed and id
    heldout_voice: Voice | None = None  # speaks the held-out texts, and nothing that teaches; None: `voices` do
    cut: Literal["spans", "texts"] = "spans"  # say each span by itself, or whole texts, cut where the engine says words end
    quality: Quality = Quality()  # what a sample must be to be kept
    shard_rows: int = Field(128, ge=1)  # texts a shard: what a kill costs at most, and a part for many machines
    workers: int | None = Field(None, ge=0)  # processes that speak; None: as many as cores; 0: none, in this process
    time_limit: float = Field(60.0, gt=0)  # seconds for one text, from when a worker has its model; then it is tried elsewhere

    @property
    def all_voices(self) -> list[Voice]:
        """Those that teach, and the held-out one."""
        return [*self.voices, *([self.heldout_voice] if self.heldout_voice else [])]

    @model_validator(mode="after")
    def _heldout_is_unheard(self) -> Speech:
        if self.heldout_voice and self.heldout_voice.who in {v.who for v in self.voices}:
            raise ValueError(f"heldout_voice {self.heldout_voice.label} is one of `voices`, so training would hear it")
        return self


class Interleave(Part):
    """Paper section 3: text spans of 10-30 words and speech spans of 5-15 words, alternating.

    pattern: speech and text in turn (alternate), each span by the toss of a coin (random), or one speech span and then
    text to the end (prefix). [10, 10] words make every span equally long.
    """

    pattern: Literal["alternate", "random", "prefix"] = "alternate"  # what follows what: see above
    speech_words: WordRange = (5, 15)  # of a heard span: from, to
    text_words: WordRange = (10, 30)  # of a read span: from, to
    start: Literal["speech", "text", "random"] = "random"  # which comes first
    max_positions: int = Field(2048, ge=16)  # of a sample, heard and read, at most


class Adapter(Part):
    """A causal decoder stack over stacked encoder frames (paper: 12 layers, 960 wide), or two linear layers (`mlp`)."""

    kind: Literal["transformer", "mlp"] = "transformer"  # a causal decoder stack, or two linear layers
    layers: int = Field(2, ge=1)  # of the transformer
    width: int = Field(576, ge=8)  # of its states; a multiple of 2 x heads
    mlp: int = Field(1536, ge=8)  # width of its hidden layer
    heads: int = Field(9, ge=1)  # of attention
    kv_heads: int = Field(3, ge=1)  # of keys and values; heads is a multiple of it
    frame_rate: float = Field(12.5, gt=0)  # positions a second that the LM sees

    @model_validator(mode="after")
    def _divides(self) -> Adapter:
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError("width must be a multiple of 2 x heads, and heads a multiple of kv_heads")
        return self


class Lora(Part):
    """Low-rank updates of the LM's linear layers (Hu et al. 2021)."""

    rank: int = Field(16, ge=1)  # of an update
    alpha: float = Field(32.0, gt=0)  # the update is scaled by alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)  # on what goes into an update, while training
    # names of the linear layers that get one
    targets: list[str] = Field(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1)


class Student(Part):
    """What learns: speech encoder (frozen) → adapter → LM (docs/training.md)."""

    adapter: Adapter = Adapter()  # between ears and LM
    lm: Literal["frozen", "lora", "full"] = "full"  # what of the LM trains: nothing, low-rank updates, or all of it
    lora: Lora = Lora()  # of `lm: lora`


class Mix(Part):
    """Shares of each kind of sample from Stage II on; Stage I has no synthetic part yet."""

    natural: float = Field(1.0, ge=0)  # speech of Stage I
    synthetic: float = Field(1.0, ge=0)  # speech of the rounds so far
    text: float = Field(1.0, ge=0)  # without speech; dropped, with a notice, when the LM is frozen: its loss is then 0


class EarlyStop(Part):
    """Ends the stable steps once D on the probes no longer falls; the decay follows as ever."""

    every: int = Field(50, ge=1)  # steps between two measurements
    patience: int = Field(3, ge=1)  # measurements in a row without a new best
    least: float = Field(0.005, ge=0)  # relative fall that counts as one


class Train(Part):
    """Steps are optimiser steps. Every stage is stable steps, saved, then a linear decay to zero."""

    batch_size: int = Field(8, ge=1)  # samples a batch, of all processes together
    accumulate: int = Field(1, ge=1)  # batches a step
    stage_one_steps: int = Field(ge=1)  # stable steps of Stage I
    round_steps: int = Field(ge=1)  # stable steps of every round; the control makes as many in all
    decay_steps: int = Field(ge=1)  # at the end of each stage, after its stable steps
    warmup_steps: int = Field(10, ge=0)  # at the start of each stage, linear
    adapter_lr: float = Field(1e-3, gt=0)  # learning rate of the adapter (and of logmel's front end)
    lm_lr: float = Field(5e-5, gt=0)  # learning rate of what trains of the LM
    weight_decay: float = Field(0.1, ge=0)  # of AdamW
    clip: float = Field(1.0, gt=0)  # gradient norm above which a gradient is scaled down
    alpha: float = Field(1.0, ge=0, le=1)  # L = α·KL + (1-α)·NLL
    temperature: float = Field(1.0, gt=0)  # T: both distributions softened, the KL times T²
    teacher: Literal["states", "cached", "online"] = "states"  # where the loss takes Q from: see trainer/targets.py
    top_k: int = Field(64, ge=1)  # of `teacher: cached`, log-probabilities kept a position
    mix: Mix = Mix()  # what samples are made of
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: bfloat16 where the processor has it
    gradient_checkpointing: bool = False  # less memory for one forward pass more
    early_stop: EarlyStop | None = None  # end the stable steps when D no longer falls; None: off
    launch: str | None = None  # an `accelerate` config: train in the processes that it describes (docs/training.md)
    save_steps: int = Field(50, ge=1)  # how much of a killed training run is lost at most


class Evaluate(Part):
    """What every student is measured on beside D, M and F of the held-out texts (docs/evaluation.md)."""

    benchmarks: list[str] = []  # names from `salad eval --list`, or YAML files
    items: int = Field(200, ge=4)  # of each benchmark, at most
    bootstrap: int = Field(2000, ge=100)  # resamplings behind every interval


class Needs(Part):
    """What a task asks of the worker that runs it: `dask` and `ray` place it where that is free."""

    cpus: float = Field(1, gt=0)  # processors; of Ray and of Dask's resource CPU
    gpus: float = Field(0, ge=0)  # GPUs; of Ray and of Dask's resource GPU
    memory: ByteSize | None = None  # main memory, such as "8 GiB"; None: not asked for


class Compute(Part):
    """Where embedding, scoring and synthesis run (docs/scaling.md). It changes no artefact."""

    runner: Literal["local", "processes", "dask", "ray"] = "local"  # threads here, processes here, or a cluster
    address: str | None = None  # of a Dask scheduler or a Ray cluster; None: one is started here, for this run alone
    workers: int | None = Field(None, ge=1)  # tasks at once, where it is started here; None: one a core
    embed: Needs = Needs()  # what a part of embedding asks for
    score: Needs = Needs()  # what a part of scoring asks for
    speak: Needs = Needs()  # what a shard of speech asks for

    @model_validator(mode="after")
    def _addressed(self) -> Compute:
        if self.address and self.runner not in ("dask", "ray"):
            raise ValueError(f"runner {self.runner} has no address: that is for dask and ray")
        if self.address and self.workers:
            raise ValueError("workers is for what is started here; the workers at an address are already there")
        return self


class Config(Part):
    """A run. Keys without a default must be given."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # the run's folder below runs_dir
    seed: int = Field(0, ge=0)  # of everything drawn; the same seed gives the same bytes
    round_seed: int | None = Field(None, ge=0)  # of what rounds draw: others from one Stage I; None: seed
    rounds: int = Field(1, ge=1)  # selection rounds after Stage I
    control: bool = True  # also train Stage I alone for as many steps, as the yardstick
    runs_dir: str = "runs"  # a folder, or a URL that fsspec knows: s3://bucket/runs
    storage: dict[str, Any] = {}  # options of that URL's file system; a secret as ${NAME}, read from the environment
    models: Models  # which networks
    pool: Pool  # which texts
    natural: Natural  # what Stage I hears
    cluster: Cluster = Cluster()  # how the pool is divided
    probe: Probe = Probe()  # where the student is asked
    score: Score = Score()  # how D(c) is estimated
    select: Select  # what is spoken
    speech: Speech = Speech()  # who speaks, and how well
    interleave: Interleave = Interleave()  # which words are heard
    student: Student = Student()  # what learns
    train: Train  # how it learns
    evaluate: Evaluate = Evaluate()  # how it is measured
    compute: Compute = Compute()  # where the heavy stages run

    @property
    def of_rounds(self) -> Config:
        """The configuration whose seed is that of the rounds."""
        return self if self.round_seed is None else self.model_copy(update={"seed": self.round_seed})

    @property
    def draw(self) -> str:
        """Which seed drew this run, and which its rounds, where that is another."""
        return str(self.seed) if self.round_seed in (None, self.seed) else f"{self.seed}/{self.round_seed}"

    @property
    def run_dir(self) -> str:
        """Path or URL of the run."""
        return f"{self.runs_dir.rstrip('/') or '/'}/{self.name}"

    @model_validator(mode="after")
    def _secrets_stay_outside(self) -> Config:
        if secret := _written_out(self.storage):
            raise ValueError(f"storage.{secret} is a secret: write ${{NAME}} and put it in the environment")
        return self

    @model_validator(mode="after")
    def _natural_speech_given(self) -> Config:
        n = self.natural
        if sum(map(bool, (n.recordings, n.shards, n.domains))) != 1:
            raise ValueError("natural: give one of `recordings`, `shards` (speech you have) or `domains` (pool texts spoken)")
        return self


def _written_out(options: dict[str, Any]) -> str | None:
    """The first option that looks like a secret and is not read from the environment."""
    for name, value in options.items():
        if isinstance(value, dict):
            if below := _written_out(value):
                return f"{name}.{below}"
        elif isinstance(value, str) and SECRET.search(name) and not re.fullmatch(r"\$\{\w+\}", value):
            return name
    return None


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a YAML file; `overrides` maps dotted keys to values (None: leave as it is).

    Raises ConfigError with file, key, what is wrong and, for a misspelt key, the nearest known one.
    """
    path = Path(path)
    advice = "give the path of a YAML file such as configs/demo.yaml", "start from configs/demo.yaml"
    data = read_mapping(path, "config", *advice)
    for key, value in (overrides or {}).items():
        if value is not None:
            *parents, last = key.split(".")
            at = data
            for p in parents:
                at = at.setdefault(p, {})
            at[last] = value
    try:
        return Config.model_validate(data)
    except ValidationError as e:
        raise ConfigError(f"config {path}: {_explain(e)}", "mend the file and run again") from e


def read_mapping(path: Path, what: str, if_missing: str, if_no_mapping: str) -> dict[str, Any]:
    """A YAML file of keys. ConfigError, with the advice that fits, for one that cannot be read or is something else."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{what} {path}: {e.strerror}", if_missing) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{what} {path} is not valid YAML: {e}", "mend the line it names") from e
    if not isinstance(data, dict):
        raise ConfigError(f"{what} {path} is not a mapping of keys", if_no_mapping)
    return data


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        at = ".".join(map(str, item["loc"])) or "top level"
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"][:-1])
            lines.append(f"unknown key '{at}'{nearest(str(item['loc'][-1]), known)} (known here: {', '.join(known)})")
        elif item["type"] == "missing":
            lines.append(f"'{at}' is missing")
        else:
            given = item["input"]
            shown = f" (got {given!r})" if isinstance(given, (str, int, float)) and not _is_nan(given) else ""
            lines.append(f"'{at}': {item['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(lines)


def _is_nan(x: object) -> bool:
    return isinstance(x, float) and math.isnan(x)


def _known_keys(loc: tuple[str | int, ...]) -> list[str]:
    model: Any = Config
    for part in loc:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            args = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)]
            model = next((a for a in args if issubclass(a, BaseModel)), annotation)
    return list(model.model_fields)
