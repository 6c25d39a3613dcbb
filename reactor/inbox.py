"""Reading what others wrote, one by one, and answering it on itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import define, field
from loguru import logger

from reactor.store.protocol import Inbox, RawDocument, Store
from schemas.converter import (
    InvalidDocumentError,
    NewerSchemaError,
    read_campaign_update,
    read_conversation_update,
)
from schemas.documents import decode
from schemas.ids import AgentId, ConversationId
from schemas.transition import Answer
from schemas.update import CampaignUpdate, ConversationUpdate, UpdateStatus

#: Characters of a reason that lists problems.
MAX_REASON = 2_000


@define
class Answers:
    """Answers that are to be written on updates, in one command per inbox."""

    now: datetime
    _answers: list[tuple[RawDocument, Mapping[str, object]]] = field(factory=list)

    def add(self, raw: RawDocument, answer: Answer) -> None:
        fields: dict[str, object] = {
            "status": answer.status.value,
            "reason": answer.reason,
            "applied_at": self.now,
        }
        if answer.message_id is not None:
            fields["message_id"] = answer.message_id
        self._answers.append((raw, fields))

    def reject(self, raw: RawDocument, problems: Sequence[str]) -> None:
        reason = "; ".join(problems)[:MAX_REASON]
        self.add(raw, Answer(status=UpdateStatus.REJECTED, reason=reason))

    def put(self, raw: RawDocument, fields: Mapping[str, object]) -> None:
        """Put something on it that is no answer: when to look at it again, say."""
        self._answers.append((raw, fields))

    def __len__(self) -> int:
        """Say how many are to be written."""
        return len(self._answers)

    async def write(self, store: Store, inbox: Inbox) -> None:
        answers, self._answers = self._answers, []
        if answers:
            await store.answer(inbox, answers)


def read_updates(
    raws: Sequence[RawDocument], answers: Answers
) -> dict[ConversationId, list[tuple[RawDocument, ConversationUpdate]]]:
    """Read conversation updates, by conversation; what is malformed is answered."""
    read: dict[ConversationId, list[tuple[RawDocument, ConversationUpdate]]] = {}
    for raw in raws:
        try:
            update = read_conversation_update(decode(raw.data), now=answers.now)
        except InvalidDocumentError as error:
            answers.reject(raw, error.problems)
        except NewerSchemaError:
            left_unanswered(Inbox.CONVERSATION_UPDATES)
        else:
            read.setdefault(update.conversation_id, []).append((raw, update))
    return read


def read_orders(
    raws: Sequence[RawDocument], answers: Answers
) -> dict[AgentId, tuple[RawDocument, CampaignUpdate]]:
    """Read campaign updates, by id; what is malformed is answered."""
    read: dict[AgentId, tuple[RawDocument, CampaignUpdate]] = {}
    for raw in raws:
        try:
            update = read_campaign_update(decode(raw.data), now=answers.now)
        except InvalidDocumentError as error:
            answers.reject(raw, error.problems)
        except NewerSchemaError:
            left_unanswered(Inbox.CAMPAIGN_UPDATES)
        else:
            read[update.id] = (raw, update)
    return read


def left_unanswered(inbox: Inbox) -> None:
    logger.bind(inbox=inbox.value).warning(
        "A document of a newer schema version is left for a newer worker"
    )
