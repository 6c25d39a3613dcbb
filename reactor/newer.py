"""Documents that a newer worker wrote: left alone and reported, while old and new work side by side."""

from collections.abc import Iterable

from attrs import define, field
from loguru import logger

from schemas.ids import CampaignId, ConversationId

#: Seconds until a campaign with some of them is looked at again.
NEWER_SECONDS = 5.0
#: A campaign with more of them is left alone altogether, so that what is known of it stays small.
MANY = 1_000


@define
class Newer:
    """Those that this worker has met, by campaign."""

    _known: dict[CampaignId, set[ConversationId]] = field(factory=dict, init=False)

    def meet(self, campaign_id: CampaignId, ids: Iterable[object]) -> int:
        """Take note of them, and warn of the first; how many were not known."""
        known = self._known.get(campaign_id, set())
        found = {ConversationId(str(each)) for each in ids} - known
        if found:
            if not known:
                logger.bind(campaign_id=campaign_id).warning(
                    "Documents of a newer schema version are left for a newer worker"
                )
            self._known[campaign_id] = known | found
        return len(found)

    def of(self, campaign_id: CampaignId) -> frozenset[ConversationId]:
        return frozenset(self._known.get(campaign_id, ()))

    def are_many(self, campaign_id: CampaignId) -> bool:
        return len(self._known.get(campaign_id, ())) > MANY

    def forget(self, campaign_id: CampaignId) -> None:
        """None of them has work any more."""
        self._known.pop(campaign_id, None)
