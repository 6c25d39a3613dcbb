"""
Reading what is to be verified, on a database in which workers work.

What looks wrong is looked at again until whatever was in flight has had its time; only what looks
wrong each time is wrong.

Conversations come in the order of an index whose keys never change, so that each comes once, however
it moves; with each batch come its entries. So what is held is a batch, whatever the campaign's size.
"""

from collections.abc import AsyncIterator, Sequence
from itertools import batched

import anyio
from attrs import frozen

from reactor.cli.bulk import BATCH, Advance, batches
from reactor.cli.evidence import FIELDS, STRAY, Evidence
from schemas.finding import Finding
from schemas.ids import CampaignId

#: Findings that are looked at again together: bounds memory where all is wrong.
SUSPECTS = 1_000
FIRST_LOOK_SECONDS = 0.1


@frozen(kw_only=True)
class Verifier:
    evidence: Evidence
    #: Real seconds for which something must look wrong before it is called wrong.
    patience_seconds: float

    async def verify(self, campaign: CampaignId, advance: Advance) -> AsyncIterator[Finding]:
        """Give all that does not hold of a campaign; of one that is removed, nothing."""
        if await self.evidence.is_leaving(campaign):
            return
        suspects: list[Finding] = []
        async for some in self._suspects(campaign, advance):
            suspects += some
            if len(suspects) >= SUSPECTS:
                for finding in await self._confirmed(campaign, suspects):
                    yield finding
                suspects = []
        for finding in await self._confirmed(campaign, suspects):
            yield finding

    async def _suspects(
        self, campaign: CampaignId, advance: Advance
    ) -> AsyncIterator[list[Finding]]:
        """Look at all of it once."""
        conversations = self.evidence.database.conversations.find(
            {"campaign_id": campaign}, FIELDS, hint="campaign_id_address_keys", batch_size=BATCH
        )
        async for batch in batches(conversations):
            yield await self.evidence.conversations(campaign, batch)
            advance(len(batch))
        entries = self.evidence.database.messages.find(
            {"campaign_id": campaign}, STRAY, hint="campaign_id_status", batch_size=BATCH
        )
        async for batch in batches(entries):
            yield await self.evidence.strays(campaign, batch)
        yield await self.evidence.campaign(campaign)

    async def _confirmed(
        self, campaign: CampaignId, suspects: Sequence[Finding]
    ) -> Sequence[Finding]:
        """Look again and again: what looks right once is right."""
        deadline, pause = anyio.current_time() + self.patience_seconds, FIRST_LOOK_SECONDS
        while suspects:
            rest = deadline - anyio.current_time()
            await anyio.sleep(min(pause, max(0.0, rest)))
            pause *= 2
            known = {finding.identity for finding in suspects}
            again = await self.look_again(campaign, suspects)
            suspects = [finding for finding in again if finding.identity in known]
            if rest <= 0:
                break
        if suspects and await self.evidence.is_leaving(campaign):
            return ()
        return suspects

    async def look_again(self, campaign: CampaignId, suspects: Sequence[Finding]) -> list[Finding]:
        """Judge again whatever these are about; there may be more to it than before."""
        found: list[Finding] = []
        whose = {each.conversation_id for each in suspects if each.conversation_id}
        for ids in batched(whose, BATCH):
            conversations = self.evidence.database.conversations.find({"_id": {"$in": ids}}, FIELDS)
            found += await self.evidence.conversations(campaign, await conversations.to_list())
        keys = {each.message_id for each in suspects if each.message_id}
        for some in batched(keys, BATCH):
            entries = self.evidence.database.messages.find({"_id": {"$in": some}}, STRAY)
            found += await self.evidence.strays(campaign, await entries.to_list())
        if any(each.conversation_id is None for each in suspects):
            found += await self.evidence.campaign(campaign)
        return found
