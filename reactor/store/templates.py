"""Pinned templates, decoded once: they are large, and never change."""

from collections import OrderedDict

from attrs import define, field

from reactor.store.protocol import RawDocument
from schemas.campaign import Campaign
from schemas.converter import from_document, refuse_newer, to_document
from schemas.documents import decode
from schemas.evolving import evolve
from schemas.ids import CampaignId
from schemas.template import MessageTemplate, Stage, Template

MAX_TEMPLATES = 256
#: Takes the template's place while the rest of a campaign is decoded.
_PLACEHOLDER = to_document(
    Template(name="-", channel=("-",), stages=(Stage(id="-", message=MessageTemplate(body="-")),))
)


@define
class Templates:
    """The templates of the campaigns that were read last, and those campaigns as they were."""

    _known: OrderedDict[CampaignId, Template] = field(factory=OrderedDict, init=False)
    #: With their documents, without the template: most looks at a campaign find it as it was.
    _last: OrderedDict[CampaignId, tuple[bytes, Campaign]] = field(factory=OrderedDict, init=False)

    def get(self, campaign: CampaignId) -> Template | None:
        return self._known.get(campaign)

    def decoded(self, identity: CampaignId, raw: RawDocument, known: Template | None) -> Campaign:
        """
        Decode a campaign; with `known` it was read without its template.

        NewerSchemaError: a newer worker wrote it.
        """
        data, last = self._last.get(identity, (b"", None))
        campaign = last if last and known and data == raw.data else _decoded(raw, known)
        if known:
            _keep(self._last, identity, (raw.data, campaign))
        self.note(campaign)
        return campaign

    def note(self, campaign: Campaign) -> None:
        """Keep a campaign's template; the one that was used least lately goes for it."""
        _keep(self._known, campaign.id, campaign.template)


def _decoded(raw: RawDocument, known: Template | None) -> Campaign:
    document = decode(raw.data)
    refuse_newer(document)
    if known is None:
        return from_document(Campaign, document)
    rest = from_document(Campaign, {**document, "template": _PLACEHOLDER})
    return evolve(rest, template=known)


def _keep[K, V](kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MAX_TEMPLATES:
        kept.popitem(last=False)
