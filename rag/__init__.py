"""Query time: from a question to an answer with citations, or an honest abstention."""
