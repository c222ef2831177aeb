"""The Arrow schemas of every artefact: the contracts that other programs may rely on (docs/shards.md)."""

from __future__ import annotations

import json

import pyarrow as pa

POOL = pa.schema(
    [
        ("id", pa.string()),  # content hash of `text`
        ("text", pa.string()),
        ("source", pa.string()),
        ("domain", pa.string()),  # nullable; reports use it, the method never does
        ("n_words", pa.int32()),
        ("n_heard", pa.int32()),  # words of the spans that would be spoken
        ("est_seconds", pa.float32()),  # of the spans that would be spoken
    ]
)

MAP_POINTS = pa.schema([("row", pa.int64()), ("x", pa.float32()), ("y", pa.float32())])  # row: of the pool

CLUSTER_WORDS = pa.schema(
    [
        ("cluster", pa.int32()),
        ("words", pa.list_(pa.string())),  # the most typical first
        ("examples", pa.list_(pa.string())),  # texts, the nearest to the centroid first
    ]
)

PROBE_SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("cluster", pa.int32()),
        ("divergence", pa.float32()),
        ("misalignment", pa.float32()),
        ("forgetting", pa.float32()),
        ("n_positions", pa.int32()),
        ("teacher_entropy", pa.float32()),  # of the text as the teacher reads it, nats a position
        ("teacher_nll", pa.float32()),
        ("cer", pa.float32()),
        ("words_per_second", pa.float32()),
        ("seconds", pa.float32()),
        ("quarantined", pa.string()),  # why this probe counts nowhere; null: it counts
    ]
)

CLUSTER_SCORES = pa.schema(
    [
        ("cluster", pa.int32()),
        ("n_pool", pa.int32()),
        ("n_probe", pa.int32()),
        ("divergence", pa.float64()),  # plain mean of its probes' D; null without one
        ("divergence_se", pa.float64()),  # null below two probes, as the interval
        ("divergence_low", pa.float64()),  # 95 % bootstrap interval
        ("divergence_high", pa.float64()),
        ("signal", pa.string()),  # what is estimated in the next two: divergence, misalignment or excess
        ("divergence_shrunk", pa.float64()),  # what P_target follows from
        ("log_sd", pa.float64()),  # standard deviation of its logarithm
        ("text_log_sd", pa.float64()),  # what one more probe is uncertain by, as a logarithm
        ("forgetting", pa.float64()),
        ("teacher_entropy", pa.float64()),
        ("cer", pa.float64()),  # mean of its probes' without the worst eighth
        ("words_per_second", pa.float64()),
        ("p_web", pa.float64()),
        ("p_target", pa.float64()),
        ("flag", pa.string()),
    ]
)

SELECTION = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("cluster", pa.int32()),
        ("rank", pa.int32()),
        ("probability", pa.float64()),
        ("predicted_divergence", pa.float32()),
        ("predicted_se", pa.float32()),
        ("nearest_selected_distance", pa.float32()),
        ("est_seconds", pa.float32()),
        ("selector", pa.string()),
        ("reason", pa.string()),
        ("round", pa.int32()),
    ]
)

_SPAN = pa.struct(
    [
        ("text", pa.string()),
        ("spoken", pa.string()),  # what the engine was given to say
        ("char_start", pa.int32()),
        ("char_end", pa.int32()),
        ("audio_start", pa.float64()),
        ("audio_end", pa.float64()),
    ]
)

_SPEECH = pa.schema(
    [
        *SELECTION,
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("sampling_rate", pa.int32()),
        ("seconds", pa.float32()),
        ("engine", pa.string()),
        ("voice", pa.string()),
        ("spans", pa.list_(_SPAN)),  # what is heard, in order; the rest of `text` is read
        ("cer", pa.float32()),  # null: this sample was not checked
        ("heard", pa.string()),  # what the ASR understood, spans divided by " | "
        ("words_per_second", pa.float32()),
        ("edge_silence", pa.float32()),  # seconds: the longest at the start or end of a span
        ("pause", pa.float32()),  # seconds: the longest inside a span
        ("clipped", pa.float32()),  # share of samples at full scale, as the engine gave them
        ("gain", pa.float32()),  # dB that brought it to the level of speech.quality
        ("peak", pa.float32()),  # of full scale, after that
    ]
)

# The same columns, each null where the text never came so far, and why it was turned down.
REJECTED = pa.schema([*_SPEECH, ("rejected", pa.string())])


def _hugging_face_feature(field: pa.Field) -> object:
    """The `datasets` feature of an Arrow field, as its schema metadata spells it."""
    kind = field.type
    if field.name == "audio":
        return {"_type": "Audio"}
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": {f.name: _hugging_face_feature(f) for f in kind.value_type}}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


def speech_schema() -> pa.Schema:
    """The speech shard's schema, with the `huggingface` metadata that makes `audio` an Audio column."""
    features = {f.name: _hugging_face_feature(f) for f in _SPEECH}
    return _SPEECH.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
