"""Whose words a prompt holds: what was read of them is used again for their owner alone, and never lies on a disk.

Where keys and values of one asker's words serve another's prompt, `cached_tokens` and the seconds tell that one, token
by token, whether what he guesses was said (Song et al. 2024, "The Early Bird Catches the Leak", arXiv 2409.20002). So
the tokens of such words are known under names that are their owner's, and two prompts share what is named alike.
"""

import threading
from collections import OrderedDict

import numpy as np

from rag.engine.context import TokenArray

# A name is the number of a token, and above it in 31 bits its owner's. Of tokens the largest vocabularies have 262,144.
_TOKEN_BITS = 18
_MOST = 2 ** (31 - _TOKEN_BITS) - 1


class Owners:
    """Numbers for owners, from 1 on. For any number of threads.

    Where more than `_MOST` have asked, the number of the one that has not asked for longest is another's: what was read
    for that one has left the memory long since, as thousands of others have asked after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[str, int] = OrderedDict()  # who has not asked for longest stands first

    def number(self, owner: str) -> int:
        """Return the number of an owner."""
        with self._lock:
            if owner in self._numbers:
                self._numbers.move_to_end(owner)
            elif len(self._numbers) < _MOST:
                self._numbers[owner] = len(self._numbers) + 1
            else:
                self._numbers[owner] = self._numbers.popitem(last=False)[1]
            return self._numbers[owner]


def names(tokens_n: TokenArray, common: int, owner: int) -> TokenArray:
    """Return under which names tokens are known that are the owner's from `common` on; an owner of 0 is everybody."""
    named_n = tokens_n.copy()
    named_n[common:] += np.int32(owner << _TOKEN_BITS)
    return named_n


def are_owned(names_n: TokenArray) -> bool:
    """Whether there are names of somebody's among these."""
    return bool((names_n >> _TOKEN_BITS).any())
