"""What one step reads: the next token of every answer being written, then prompts in turn, then drafts.

An answer and a prompt never wait for a draft: drafts take what is left of the batch and of its rows of logits.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rag.engine.context import ContextLike, Part, TokenArray
from rag.engine.lookup import NO_DRAFT
from rag.engine.task import Task

# With more answers than this being written at once none guesses ahead: their certain tokens share what a step costs.
GUESSING_AT_ONCE = 2

AnyTask = Task[Any]


class Turn(NamedTuple):
    """What one step reads of a task: so many tokens, the last `outputs` of them with logits, and a draft after them.

    All tokens of the draft are read with logits.
    """

    task: AnyTask
    tokens: int
    outputs: int
    draft_n: TokenArray = NO_DRAFT

    @property
    def part(self) -> Part:
        """The same for the context."""
        task, drafted = self.task, len(self.draft_n)
        assert task.sequence is not None
        tokens_n = task.tokens_n[task.read : task.read + self.tokens]
        if drafted:
            tokens_n = np.concatenate([tokens_n, self.draft_n])
        return Part(task.sequence, task.read, tokens_n, self.outputs + drafted)


def plan(tasks: Sequence[AnyTask], context: ContextLike, read_tokens: int) -> list[Turn]:
    """Share out a batch among tasks in their order. Prompts get up to `read_tokens` together."""
    outputs = context.outputs
    turns = []
    for task in [task for task in tasks if not task.held and task.unread == 1]:
        turns.append(Turn(task, 1, task.outputs(1)))
        outputs -= turns[-1].outputs
    budget = min(read_tokens, context.batch - len(turns))  # scorings come on top of the answers that there is room for
    for task in [task for task in tasks if not task.held and task.unread > 1]:
        silent = max(0, task.first_output - task.read)  # tokens whose logits nobody wants
        count = min(task.unread, budget, silent + outputs)
        if count:
            turns.append(Turn(task, count, task.outputs(count)))
            budget, outputs = budget - count, outputs - turns[-1].outputs
    return _with_drafts(turns, context, outputs)


def without_drafts(turns: list[Turn]) -> list[Turn]:
    """Return only what is certain."""
    return [turn._replace(draft_n=NO_DRAFT) for turn in turns]


def _with_drafts(turns: list[Turn], context: ContextLike, outputs: int) -> list[Turn]:
    """Let few answers guess ahead. What was guessed wrong must be cut off again, which not every model allows."""
    if not context.forgets_parts or sum(turn.task.unread == 1 for turn in turns) > GUESSING_AT_ONCE:
        return turns
    room = min(outputs, context.batch - sum(turn.tokens for turn in turns))
    drafted = []
    for turn in turns:
        drafted.append(turn._replace(draft_n=turn.task.draft(room)))
        room -= len(drafted[-1].draft_n)
    return drafted
