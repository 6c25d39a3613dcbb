"""The classes as converters and schemas see them: how fields are spelled, and kinds of types."""

from collections.abc import Mapping
from typing import Any

import attrs

from schemas.ids import AgentId

#: Classes with a collection of their own. Any other spells its `id` as it stands.
_WITH_ID = frozenset(
    {"BatchRequest", "Campaign", "Conversation", "ConversationUpdate", "CampaignUpdate"}
    | {"LedgerEntry", "Suppression", "ChannelState", "Alert"}
)


def wire_names(cls: Any) -> Mapping[str, str]:
    """Give each field's name in documents: `_id` for `id`, `from` for `from_`."""
    names = {field.name: field.name.rstrip("_") for field in attrs.fields(cls)}
    if cls.__name__ in _WITH_ID:
        names["id"] = "_id"
    return names


def is_id(kind: Any) -> bool:
    return kind is AgentId or kind == AgentId.__value__
