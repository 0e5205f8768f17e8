"""Writes what a judge is asked of one proposal.

A reward model is shown a conversation, as those that it was trained on: somebody asks, and the proposal is the answer.
A model that scores by its next token gets the system message of the council, the proposal in a frame, and a question
that Yes or No answers.
"""

import json
from typing import assert_never

from fleet.deliberation import prompts
from fleet.deliberation.labels import label
from fleet.deliberation.state import Deliberation
from fleet.messages import ChatMessage, JudgeKind


def of(state: Deliberation, kind: JudgeKind, author: str) -> tuple[ChatMessage, ...]:
    """The messages about the proposal of `author`."""
    match kind:
        case "classify":
            answer = ChatMessage(role="assistant", content=state.candidates[author].proposal.content)
            return ChatMessage(role="user", content=_task(state)), answer
        case "generative_scoring":
            question = "\n\n".join(
                [
                    "Say whether the proposal below is a solution that nothing material is missing from, by the rubric "
                    "as a whole. Answer Yes or No, with this one word.",
                    *prompts.shown(state, label((author,))),
                    "Is it? Answer Yes or No.",
                ]
            )
            return prompts.shared(state), ChatMessage(role="user", content=question)
        case _:
            assert_never(kind)


def _task(state: Deliberation) -> str:
    """As somebody would ask it, without the rules of the council."""
    task = state.task
    parts = [task.task_description]
    if task.requirements:
        parts.append("Requirements:\n" + "\n".join(f"- {text}" for text in task.requirements))
    if task.output_schema is not None:
        parts.append("Answer in JSON that satisfies this JSON Schema:\n" + _json(task.output_schema))
    if task.metadata:
        parts.append("Context:\n" + _json(task.metadata))
    return "\n\n".join(parts)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
