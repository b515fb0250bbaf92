"""Scores of a ranking, from ir-measures, in trec_eval's sense."""

from collections.abc import Mapping, Sequence

RETRIEVAL_METRICS = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10")

# What `retrieved` must reach down to; 20 leaves room for a deeper metric without asking again.
RANKED_DOCUMENTS = 20


def judge_ranking(ranked: Sequence[str], relevant: Sequence[str]) -> dict[str, float]:
    """recall@k, MRR and nDCG@10 of ranked documents (each once, best first) against the relevant ones.

    Recall@k is the share of relevant documents among the first k (TREC's sense, not success@k). MRR is 1 / rank of the
    first relevant one, 0 where none is among the `RANKED_DOCUMENTS` that a row keeps. nDCG has gain 1 for every
    relevant document and discount log2(rank + 1) (Jarvelin and Kekalainen 2002).
    """
    if not ranked:
        return dict.fromkeys(RETRIEVAL_METRICS, 0.0)
    import ir_measures
    from ir_measures import RR, R, nDCG

    measures = {"recall@1": R @ 1, "recall@5": R @ 5, "recall@10": R @ 10, "mrr": RR, "ndcg@10": nDCG @ 10}
    # trec_eval orders by score and breaks ties by id, so the rank itself is handed over as the score.
    run = {"q": {document: float(-rank) for rank, document in enumerate(ranked)}}
    qrels = {"q": dict.fromkeys(relevant, 1)}
    values = {m.measure: m.value for m in ir_measures.pytrec_eval.iter_calc(list(measures.values()), qrels, run)}
    return {name: float(values[measure]) for name, measure in measures.items()}


def ndcg_at_10(rankings: Sequence[Mapping[str, float]], relevant: Sequence[Sequence[str]]) -> list[float]:
    """nDCG@10 of each question, as in `judge_ranking`, from scores by document; 0 where nothing was found."""
    import ir_measures

    qrels = {str(number): dict.fromkeys(ids, 1) for number, ids in enumerate(relevant)}
    run = {str(number): dict(ranking) for number, ranking in enumerate(rankings) if ranking}
    values = {m.query_id: m.value for m in ir_measures.pytrec_eval.iter_calc([ir_measures.nDCG @ 10], qrels, run)}
    return [float(values.get(str(number), 0.0)) for number in range(len(rankings))]
