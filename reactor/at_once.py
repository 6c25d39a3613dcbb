"""
A small request, at once: opened, and its first messages handed off, in the turn that accepts it.

Whoever inserted it waits for every command in between. So a first message is marked in the document
that opens its conversation, and the request is answered while the messages are at their channel.
Whatever is cut off is found as it stands: the request unanswered, the campaign not opened, the
messages under a lease.
"""

from collections.abc import Collection, Sequence

from handlers.campaign import opened_through
from handlers.conversation import Step
from handlers.scene import Scene
from reactor.delivery import Marked, deliver
from reactor.effects import settle
from reactor.engine import Engine
from reactor.giving_way import give_way
from reactor.opening import Chunk, close_chunk, insert, make
from reactor.store.protocol import Conflict
from reactor.walk import Setting, attempt
from schemas.campaign import Campaign
from schemas.conversation import Conversation, SlotState
from schemas.evolving import evolve
from schemas.ids import ConversationId


async def begin_at_once(
    engine: Engine, setting: Setting, barred: Collection[ConversationId], chunk: Chunk
) -> Campaign | None:
    """
    Open a whole request, and hand off what may leave; None: another worker was faster.

    What may not, or needs more than a mark, is due, and left to the campaign's next turn.
    """
    scene, campaign = setting.scene, setting.scene.campaign
    link = (campaign.traceparent, campaign.tracestate)
    attributes = {"campaign_id": campaign.id, "campaign_type": campaign.type}
    with engine.telemetry.span("open", link=link, attributes=attributes):
        made = await make(chunk, campaign, barred, scene.now)
        active = opened_through(campaign, None, scene.now, done=True)
        opened = await _marked(made.conversations, setting, evolve(scene, campaign=active))
        conflicts = await insert(engine, made, opened, carried=not any(map(_is_marked, opened)))
    ours = [one for index, one in enumerate(opened) if index not in conflicts]
    marked = {one.id: one for one in ours if _is_marked(one)}
    engine.telemetry.processed(campaign.type, len(marked))
    settle(engine, campaign, [(one, one) for one in marked.values()])
    closed: Campaign | None = None

    async def close() -> None:
        nonlocal closed
        closed = await close_chunk(engine, campaign, chunk, made.rejected, scene.now)

    if marked:
        mail = Marked(scene=scene, since=setting.since, conversations=marked)
        await deliver(engine, mail, close)
    else:
        await close()
    if Conflict.SAME in conflicts.values():
        # It was begun before: what was inserted early may wait in the inbox.
        engine.turns.want_sweep()
    return closed


async def _marked(
    conversations: Sequence[Conversation], setting: Setting, scene: Scene
) -> list[Conversation]:
    """
    Mark first messages, as many of a channel as it takes now; `scene`: as of an opened campaign.

    Whatever else there is to be decided about a conversation is decided once it is there.
    """
    opened = list[Conversation]()
    rest = {name: each.count for name, each in setting.allowed.items()}
    for number, one in enumerate(conversations, 1):
        await give_way(number)
        step = attempt(one, [], None, scene)
        marked = step.conversation if isinstance(step, Step) and not step.effects else one
        slot = marked.slot
        if slot and _is_marked(marked) and rest.get(slot.channel, 0) > 0:
            rest[slot.channel] -= 1
            opened.append(marked)
        else:
            opened.append(one)
    return opened


def _is_marked(conversation: Conversation) -> bool:
    return conversation.slot is not None and conversation.slot.state is SlotState.SENDING
