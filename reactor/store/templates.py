"""Pinned templates, decoded once: they are large, and never change."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from schemas.campaign import Campaign
from schemas.converter import from_document, refuse_newer, to_document
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
    """The templates of the campaigns that were read last."""

    _known: OrderedDict[CampaignId, Template] = field(factory=OrderedDict, init=False)

    def get(self, campaign: CampaignId) -> Template | None:
        return self._known.get(campaign)

    def decoded(self, document: Mapping[str, Any], known: Template | None) -> Campaign:
        """
        Decode a campaign; with `known` it was read without its template.

        NewerSchemaError: a newer worker wrote it.
        """
        refuse_newer(document)
        if known is None:
            campaign = from_document(Campaign, document)
        else:
            rest = from_document(Campaign, {**document, "template": _PLACEHOLDER})
            campaign = evolve(rest, template=known)
        self.note(campaign)
        return campaign

    def note(self, campaign: Campaign) -> None:
        """Keep a campaign's template; the one that was used least lately goes for it."""
        self._known[campaign.id] = campaign.template
        self._known.move_to_end(campaign.id)
        if len(self._known) > MAX_TEMPLATES:
            self._known.popitem(last=False)
