"""Defines what names an agent call, and each message about it."""

from fleet.messages.base import Message, Phase


def slot_name(agent_id: str, question: int) -> str:
    """A call's key within its phase: the agent's id, and for further questions `~<question>`."""
    return agent_id if question == 1 else f"{agent_id}~{question}"


def of_run(name: str, run: str) -> str:
    """A message id: what a later request for the same task id leads to is another message."""
    return f"{name}.{run}" if run else name


class CallName(Message, frozen=True, kw_only=True):
    """Names a call: its slot in the deliberation. `question` numbers an agent's calls within one phase.

    `run`: which request for this task id it belongs to; empty: not known. `shadow`: a call of a model on trial, or one
    that judges it; the council's course does not depend on it.
    """

    task_id: str
    agent_id: str
    role: str
    phase: Phase
    round: int
    attempt: int
    question: int = 1
    run: str = ""
    shadow: bool = False

    @property
    def slot(self) -> str:
        """See `slot_name`."""
        return slot_name(self.agent_id, self.question)

    @property
    def call_id(self) -> str:
        """`<task_id>.<round>.<phase>.<slot>`."""
        return f"{self.task_id}.{self.round}.{self.phase}.{self.slot}"

    @property
    def name(self) -> str:
        """`<call_id>.<run>`: the same for every attempt."""
        return of_run(self.call_id, self.run)

    @property
    def msg_id(self) -> str:
        """The message id: `<call_id>.<attempt>.<run>`."""
        return of_run(f"{self.call_id}.{self.attempt}", self.run)
