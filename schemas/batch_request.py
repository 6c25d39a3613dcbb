"""What the agent inserts: a batch request with its recipients."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from attrs import Factory, field, frozen

from schemas.ids import AgentId
from schemas.problems import SCHEMA_VERSION
from schemas.template import Template
from schemas.validators import between, length, longer_than_zero, one_of

BATCH_RECIPIENTS = "batch_recipients"


class OnInvalidRecipient(StrEnum):
    SKIP = "skip"
    REJECT = "reject"


@frozen(kw_only=True)
class TemplateRef:
    """A document in `campaign_templates`; without `version` the highest."""

    name: str = field(validator=length(1, 200))
    version: int | None = field(default=None, validator=between(1))


@frozen(kw_only=True)
class Recipient:
    """One person of a batch request. Does not change after acceptance."""

    id: str = field(validator=length(1, 500))
    #: By address kind: `{email: …, sms: …}`; as given, not normalised.
    address: Mapping[str, str] = field(validator=length(1, 100))
    #: IANA name. None: the template's.
    timezone: str | None = None
    locale: str | None = field(default=None, validator=length(1, 100))
    #: Narrower than the request's.
    scheduled_at: datetime | None = None
    ends_at: datetime | None = None
    attributes: Mapping[str, object] = Factory(dict)


@frozen(kw_only=True)
class BatchRequest:
    """A request whose recipients are still raw: each is read on its own, so one sinks no other."""

    id: AgentId
    schema_version: int = field(default=SCHEMA_VERSION, validator=between(1))
    name: str = field(validator=length(1, 500))
    type: str = field(validator=length(1, 200))
    template: Template | None = None
    template_ref: TemplateRef | None = None
    #: Raw recipient documents, or None when `recipients_from` names where they are.
    recipients: tuple[object, ...] | None = None
    recipients_from: str | None = field(default=None, validator=one_of(BATCH_RECIPIENTS))
    recipient_count: int | None = field(default=None, validator=between(0))
    scheduled_at: datetime | None = None
    start_within: timedelta = field(default=timedelta(days=1), validator=longer_than_zero)
    ends_at: datetime | None = None
    on_invalid_recipient: OnInvalidRecipient = OnInvalidRecipient.SKIP
    metadata: Mapping[str, object] = Factory(dict)
    traceparent: str | None = field(default=None, validator=length(0, 200))
    tracestate: str | None = field(default=None, validator=length(0, 4_096))
