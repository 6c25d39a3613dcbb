"""Identities: every document that the worker makes has an `_id` that follows from its cause."""

import base64
import hashlib
import re
from typing import NewType
from uuid import UUID

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.objectid import ObjectId

#: The `_id` that the agent gave a request or an update: its idempotency key.
type AgentId = str | ObjectId | UUID

CampaignId = NewType("CampaignId", str)
ConversationId = NewType("ConversationId", str)
#: `conversation/stage/n`: the identity of one message, and what every hand-off carries.
SendKey = NewType("SendKey", str)

BUCKETS = 256
#: As `send_key` writes it: a message has one key, however many ways there are to write its number.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_CODEC: CodecOptions[dict[str, object]] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD
)


def campaign_id(request: AgentId) -> CampaignId:
    """Give the campaign of a batch request: base64url of SHA-256 over the BSON of `{r: request}`."""
    return CampaignId(_digest({"r": request}))


def conversation_id(request: AgentId, recipient: str) -> ConversationId:
    """Give a recipient's conversation: base64url of SHA-256 over the BSON of `{r: …, i: …}`."""
    return ConversationId(_digest({"r": request, "i": recipient}))


def send_key(conversation: ConversationId, stage: str, n: int) -> SendKey:
    return SendKey(f"{conversation}/{stage}/{n}")


def read_send_key(conversation: ConversationId, key: str) -> tuple[str, int] | None:
    """Give the stage and the n of a send key; None: it is no key of this conversation's."""
    owner, _, rest = key.partition("/")
    stage, _, number = rest.partition("/")
    if owner != conversation or not stage or not _NUMBER.fullmatch(number):
        return None
    return stage, int(number)


def bucket(conversation: ConversationId) -> int:
    """Give 0 to 255, evenly spread: which worker looks at a conversation first is derived from it."""
    return base64.urlsafe_b64decode(conversation[:4])[0]


def stable_fraction(text: str) -> float:
    """Give a number in [0, 1) that is the same for the same text, everywhere: jitter without chance."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _digest(identity: dict[str, object]) -> str:
    digest = hashlib.sha256(bson.encode(identity, codec_options=_CODEC)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
