"""Clusters of a large segment's vectors: trained, filled, and how many a search looks into, when it is written."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from rag.ivf import TUNED_FOR, ClusteredVectors
from rag.manifest import CLUSTERS, VECTORS
from rag.protocols import FloatArray, IntArray
from rag.vectors import FlatVectors

# Below, comparing every vector takes a few milliseconds, and clusters would not pay for their training.
EXACT_BELOW = 20_000

# What a search must find of the exact ten nearest, on average, and what is aimed at, so that questions, which lie
# elsewhere than passages, still find enough.
LEAST_RECALL = 0.95
_TARGET = 0.98

# Clusters for n vectors: 4 sqrt(n), within FAISS's advice of 4 to 16; each is trained on at most so many vectors.
_CLUSTERS_PER_ROOT = 4
_POINTS = 50
_ROUNDS = 10
_SEED = 20_240_229
_QUERIES = 400
# The cosine of a stored vector and the query that is made of it. With 0.6 recall is, for any number of clusters, about
# that of real questions (scifact's over 30,000 and 100,000 vectors; their best passages have 0.60 and 0.62 on average).
_QUERY_COSINE = 0.6
# Two programs that add up the same products in another order differ by less.
_SAME = 1e-5


def write_clusters(folder: Path) -> None:
    """Write the clusters of a segment whose vectors are written, if it is large. Raises `OSError`.

    Vectors that no few clusters keep together, such as random ones, get none and stay compared one by one.
    """
    exact = FlatVectors.load(folder / VECTORS)
    if len(exact) >= EXACT_BELOW:
        found = cluster(exact, folder / VECTORS)
        if found is not None:
            found.save(folder / CLUSTERS)


def cluster(exact: FlatVectors, floats: Path) -> ClusteredVectors | None:
    """Return the vectors of a file in clusters, the same for the same vectors; None where that would not pay.

    `nprobe` is the least that finds `_TARGET` of the ten nearest of made-up queries, in steps of a half more. These are
    made of vectors that the clusters were not trained on.
    """
    random = np.random.default_rng(_SEED)
    order = random.permutation(len(exact))
    index = _trained(exact, order[_QUERIES:])
    for block_md in exact.blocks(None):
        index.add(block_md)
    queries_qd = perturbed(exact.rows(order[:_QUERIES]), random)
    least_q = exact.best_scores(queries_qd, min(TUNED_FOR, len(exact)))[:, -1]
    found = ClusteredVectors(exact, index, floats)
    probes = 1
    while probes <= index.nlist // 2:
        index.nprobe = probes
        scores = [found.search(query_d, TUNED_FOR)[0] for query_d in queries_qd]
        if np.mean([recall(s, least) for s, least in zip(scores, least_q, strict=True)]) >= _TARGET:
            return found
        probes = math.ceil(1.5 * probes)
    return None


def perturbed(vectors_nd: FloatArray, random: np.random.Generator) -> FloatArray:
    """Return queries `(n, d)` made of stored vectors, each with a cosine of `_QUERY_COSINE` to its own.

    They leave it in the direction in which two others of the sample differ, as questions lie among passages: in random
    directions, most of which no passage differs in, the nearest would hardly change and every search look good.
    """
    noise_nd = vectors_nd[random.permutation(len(vectors_nd))] - vectors_nd[random.permutation(len(vectors_nd))]
    noise_nd -= np.sum(noise_nd * vectors_nd, axis=1, keepdims=True) * vectors_nd
    noise_nd /= np.maximum(np.linalg.norm(noise_nd, axis=1, keepdims=True), 1e-6)
    queries_nd: FloatArray = _QUERY_COSINE * vectors_nd + math.sqrt(1 - _QUERY_COSINE**2) * noise_nd
    queries_nd /= np.linalg.norm(queries_nd, axis=1, keepdims=True)
    return queries_nd


def recall(scores: FloatArray, least: float, wanted: int = TUNED_FOR) -> float:
    """The share of the exact `wanted` nearest that were found, given the lowest score of these.

    By scores and not by rows: of equal vectors any will do.
    """
    return min(1.0, float(np.count_nonzero(scores[:wanted] >= least - _SAME)) / wanted)


def _trained(exact: FlatVectors, rows: IntArray) -> Any:
    """Return an empty FAISS index whose clusters are trained on a sample of the rows, given in random order."""
    import faiss

    clusters = max(1, min(round(_CLUSTERS_PER_ROOT * math.sqrt(len(exact))), len(exact) // 2))
    sample_md = exact.rows(np.sort(rows[: _POINTS * clusters]))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(exact.dimension),
        exact.dimension,
        clusters,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.cp.spherical = True
    index.cp.niter = _ROUNDS
    index.cp.seed = _SEED
    # It has been drawn already: FAISS neither draws again nor warns of few points.
    index.cp.max_points_per_centroid = 2 * _POINTS
    index.cp.min_points_per_centroid = 1
    index.train(sample_md)
    return index
