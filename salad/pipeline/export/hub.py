"""Hugging Face hub: a folder that `datasets.load_dataset` opens and `hf upload` takes, and `push`, which uploads it.

Rows and columns are those of the shards; only files and row groups are cut anew. Several rounds of a run become one dataset,
in which each round is also a configuration of its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad.errors import SaladError
from salad.pipeline.card import card
from salad.pipeline.export.facts import corpus_facts

if TYPE_CHECKING:
    from salad.pipeline.export import Options
    from salad.pipeline.export.corpus import Corpus

# So that the hub's viewer reads single pages, a later upload sends only what has changed, and damage is noticed.
PAGES = {"write_page_index": True, "use_content_defined_chunking": True, "write_page_checksum": True}
REFUSALS = {401: "the token is not valid", 403: "the token may not write there", 404: "no such user or organisation"}


def write(corpus: Corpus, out: Path, options: Options) -> None:
    (out / "data").mkdir()
    schema = with_audio_feature(corpus.schema)
    infos, done = {}, 0
    for part in corpus.parts:
        stem = "train" if len(corpus.parts) == 1 else part.name
        infos[stem] = size = {"num_examples": part.rows, "num_bytes": 0}
        total = -(-part.rows // options.shard_rows)
        pieces = _pieces(corpus.batches(part, schema.names), options.shard_rows)
        for number, group in groupby(pieces, key=itemgetter(0)):
            path = out / "data" / f"{stem}-{number:05d}-of-{total:05d}.parquet"
            with pq.ParquetWriter(path, schema, compression="zstd", **PAGES) as file:
                for _, piece in group:
                    file.write_table(piece.cast(schema))
                    size["num_bytes"] += piece.nbytes
                    done += piece.num_rows
                    options.progress(done)
    facts = corpus_facts(corpus, options.licences, options.language)
    (out / "README.md").write_text(card(facts, front=_front(schema, infos, out)), encoding="utf-8")


def _pieces(tables: Iterator[pa.Table], rows: int) -> Iterator[tuple[int, pa.Table]]:
    """The same rows, cut also after every `rows` of them, each piece with the number of its file."""
    at = 0
    for table in tables:
        while table.num_rows:
            piece = table.slice(0, rows - at % rows)
            yield at // rows, piece
            at += piece.num_rows
            table = table.slice(piece.num_rows)


def with_audio_feature(schema: pa.Schema) -> pa.Schema:
    """The schema with the metadata by which `datasets` knows its types, and that `audio` is sound."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema.remove_metadata())
    features["audio"] = datasets.Audio()
    return schema.with_metadata(features.arrow_schema.metadata)


def _front(schema: pa.Schema, infos: dict[str, dict[str, int]], out: Path) -> dict[str, Any]:
    """`configs` (which files) and `dataset_info` (types and sizes, which `load_dataset` checks)."""
    import datasets
    from huggingface_hub import DatasetCardData

    globs = {"default": "data/*.parquet"} | ({} if len(infos) == 1 else {stem: f"data/{stem}-*.parquet" for stem in infos})
    features = datasets.Features.from_arrow_schema(schema)
    found = datasets.info.DatasetInfosDict()
    for name, glob in globs.items():
        sizes = [size for stem, size in infos.items() if name in ("default", stem)]
        train = {"name": "train", **{what: sum(size[what] for size in sizes) for what in ("num_bytes", "num_examples")}}
        found[name] = datasets.DatasetInfo(
            features=features,
            splits={"train": train},
            download_size=sum(p.stat().st_size for p in out.glob(glob)),
            dataset_size=train["num_bytes"],
        )
    matter = DatasetCardData()
    found.to_dataset_card_data(matter)
    configs = [{"config_name": name, "data_files": [{"split": "train", "path": glob}]} for name, glob in globs.items()]
    return {"configs": configs, "dataset_info": matter["dataset_info"]}


def check_repo(repo: str) -> None:
    """SaladError unless `repo` can be the name of a dataset on the hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as e:
        raise SaladError(f"'{repo}' cannot be a dataset's name on the hub", "give it as USER/NAME") from e


def push(folder: Path, repo: str, private: bool = True) -> str:
    """Upload an exported folder as a dataset; returns its address. SaladError says why not, and how to go on by hand."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    check_repo(repo)
    later = f"{folder} is complete: `hf upload {repo} {shlex.quote(str(folder))} --repo-type dataset`"
    try:
        if get_token() is None:
            raise LocalTokenNotFoundError("no token")
        api = HfApi()
        made = api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, repo_type="dataset", commit_message="Export of SALAD")
    except LocalTokenNotFoundError as e:
        raise SaladError("the hub asks who you are, and there is no token here", f"`hf auth login`, then {later}") from e
    except OfflineModeIsEnabled as e:
        raise SaladError("the hub is switched off here (HF_HUB_OFFLINE)", f"unset it; {later}") from e
    except HfHubHTTPError as e:
        raise SaladError(f"the hub refused {repo} ({REFUSALS.get(e.response.status_code, e)})", later) from e
    except (OSError, ValueError, RuntimeError) as e:  # the network, files, and what the hub finds wrong in them
        raise SaladError(f"the upload to {repo} failed ({type(e).__name__}: {e})", later) from e
    return str(made)
