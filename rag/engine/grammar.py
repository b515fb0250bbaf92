"""Texts of one form only: grammars in llama.cpp's GBNF, and JSON schemas turned into them."""

import ctypes
from typing import Any

import numpy as np

from rag.engine.native import Vocabulary, bindings
from rag.errors import InvalidRequest
from rag.protocols import FloatArray


class Grammar:
    """A grammar at work on one answer. Implements `TokenFilter`. Raises `InvalidRequest` where it cannot be read."""

    def __init__(self, vocabulary: Vocabulary, gbnf: str) -> None:
        self._llama = bindings()
        self._sampler: Any = None
        if "\0" not in gbnf:
            self._sampler = self._llama.llama_sampler_init_grammar(vocabulary.handle, gbnf.encode(), b"root")
        if not self._sampler:
            raise InvalidRequest("the grammar is not valid GBNF", hint="It needs a rule named root.")
        self._candidates_v: Any = np.zeros(vocabulary.size, self._llama.llama_token_data)
        self._candidates_v["id"] = np.arange(vocabulary.size)

    def __del__(self) -> None:
        if self._sampler:
            self._llama.llama_sampler_free(self._sampler)

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        one: Any = np.zeros(1, self._candidates_v.dtype)
        one["id"] = token
        self._apply(one)
        return bool(np.isfinite(one["logit"][0]))

    def masked(self, logits_v: FloatArray) -> FloatArray:
        """Return a copy of the logits with minus infinity for every token that may not come next."""
        self._candidates_v["logit"] = logits_v
        self._apply(self._candidates_v)
        return np.ascontiguousarray(self._candidates_v["logit"])

    def accept(self, token: int) -> None:
        """Take note of the chosen token, which must be an allowed one: llama.cpp would end the process."""
        self._llama.llama_sampler_accept(self._sampler, token)

    def _apply(self, candidates: Any) -> None:
        data = candidates.ctypes.data_as(ctypes.POINTER(self._llama.llama_token_data))
        array = self._llama.llama_token_data_array(data, len(candidates), -1, False)
        self._llama.llama_sampler_apply(self._sampler, ctypes.byref(array))


def schema_grammar(schema: str) -> str:
    """Return the grammar of the JSON texts that fit a JSON schema. Raises `InvalidRequest`."""
    bindings()
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return str(json_schema_to_gbnf(schema))
    except Exception as error:  # the converter raises whatever a schema makes it stumble over
        raise InvalidRequest(f"the JSON schema cannot be made a grammar: {error}") from error
