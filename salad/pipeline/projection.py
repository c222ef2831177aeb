"""The map of the pool, for the eye alone (nothing chooses by it): some texts in two dimensions, and what clusters are about.

Places are t-SNE (van der Maaten and Hinton 2008) of the embeddings, started from their first principal components, so that the
large distances mean something too. Words of a cluster are the most typical of it by class-based TF-IDF (Grootendorst 2022,
arXiv 2203.05794).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salad.pipeline.embed import load_embeddings
from salad.pipeline.rows import take_rows
from salad.pipeline.schema import CLUSTER_WORDS, MAP_POINTS
from salad.seeds import derive
from salad.threads import one_thread

POINTS = 2_000  # on the map; t-SNE takes 3 ms for each
READ = 10_000  # texts of which the words are counted
DIMENSIONS = 50  # principal components that t-SNE starts from
PERPLEXITY = 30.0  # about how many neighbours a text is to keep
WORDS, EXAMPLES = 8, 3  # of each cluster
WORD = r"(?u)\b[^\W\d_]{3,30}\b"
NEIGHBOURS = 5  # that a text which is not on the map is put amid


def build_map(out: Path, pool: Path, embeddings: Path, clusters: Path, seed: int) -> dict[str, Any]:
    """`points.parquet`: row of the pool, x, y. `clusters.parquet`: cluster, its words, texts from its middle."""
    x, cluster = load_embeddings(embeddings), np.load(clusters / "assignment.npy", allow_pickle=False)
    rng = np.random.default_rng(derive(seed, "map"))
    read = np.sort(rng.permutation(len(x))[:READ])
    drawn = np.sort(rng.permutation(read)[:POINTS])
    places = project(np.asarray(x[drawn], np.float32), derive(seed, "map", "t-SNE"))
    columns = [drawn.astype(np.int64), *places.T]
    pq.write_table(pa.table(dict(zip(MAP_POINTS.names, columns, strict=True)), MAP_POINTS), out / "points.parquet")

    centroids = np.load(clusters / "centroids.npy", allow_pickle=False)
    texts = take_rows(pool, read, ["text"])["text"].to_pylist()
    words = typical_words(texts, cluster[read], len(centroids))
    middle = [_middle(x, read[cluster[read] == c], centroid) for c, centroid in enumerate(centroids)]
    text_of = dict(zip(read.tolist(), texts, strict=True))
    table = {
        "cluster": range(len(centroids)),
        "words": words,
        "examples": [[text_of[row] for row in rows.tolist()] for rows in middle],
    }
    pq.write_table(pa.table(table, CLUSTER_WORDS), out / "clusters.parquet", compression="zstd")
    return {"points": len(drawn), "read": len(read)}


@one_thread()
def project(x: np.ndarray, seed: int) -> np.ndarray:
    """(n, d) unit vectors to (n, 2) float32, the same for the same vectors and seed."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = len(x)
    if n < 4:  # t-SNE needs some neighbours
        return np.repeat(np.arange(n, dtype=np.float32)[:, None], 2, axis=1)
    principal = PCA(min(DIMENSIONS, *x.shape), random_state=seed % 2**32).fit_transform(x)
    found = TSNE(
        init="pca", perplexity=min(PERPLEXITY, (n - 1) / 3), max_iter=500, random_state=seed % 2**32, n_jobs=1
    ).fit_transform(principal)
    return np.asarray(found, np.float32)


def place(x: np.ndarray, known: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n, 2): where texts belong that are not on the map: amid the nearest that are, the nearer the more.

    x: (n, d) unit vectors. known: (m, d) those on the map. places: (m, 2) where these are.
    """
    import faiss

    index = faiss.IndexFlatIP(known.shape[1])
    index.add(np.ascontiguousarray(known, np.float32))
    near, which = index.search(np.ascontiguousarray(x, np.float32), min(NEIGHBOURS, len(known)))
    weight = 1.0 / (1e-3 + np.maximum(0.0, 1.0 - near))
    weight /= weight.sum(1, keepdims=True)
    found: np.ndarray = (weight[:, :, None] * places[which]).sum(1)
    return found


def typical_words(texts: list[str], cluster: np.ndarray, k: int) -> list[list[str]]:
    """For each of k clusters the words that are frequent in it, and more so than in the others, the most typical first."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(stop_words="english", token_pattern=WORD)
    try:
        counts = counter.fit_transform(texts)
    except ValueError:  # no word at all
        return [[] for _ in range(k)]
    from scipy.sparse import csr_matrix

    member = csr_matrix((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))), shape=(k, len(cluster)))
    by_cluster = np.asarray((member @ counts).todense(), np.float64)  # (K, V)
    total = by_cluster.sum(1, keepdims=True)
    score = by_cluster / np.maximum(total, 1) * np.log1p(total.mean() / by_cluster.sum(0))
    names = counter.get_feature_names_out()  # in alphabetical order, which decides between equals
    ranked = np.argsort(-score, axis=1, kind="stable")[:, :WORDS]
    return [[str(names[i]) for i in row if score[c, i] > 0] for c, row in enumerate(ranked)]


def _middle(x: np.ndarray, rows: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    """Those of the rows that are nearest to a centroid."""
    near = np.asarray(x[rows], np.float32) @ centroid
    return rows[np.argsort(-near, kind="stable")[:EXAMPLES]]
