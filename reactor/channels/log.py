"""`log:` a log line for each message, without its content: an engine that sends nothing."""

from types import TracebackType
from typing import ClassVar, Self

from attrs import frozen
from loguru import logger

from reactor.channels.settings import ChannelSettings
from schemas.hand_off import HandOff, Outcome, OutcomeKind


@frozen
class LogChannel:
    own: ClassVar[frozenset[str]] = frozenset()
    waits: ClassVar[bool] = False
    settings: ChannelSettings
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        if self.settings.url_rest:
            raise ValueError("expected log: and nothing after it")

    @property
    def name(self) -> str:
        return self.settings.name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def send(self, hand_off: HandOff) -> Outcome:
        logger.bind(
            key=hand_off.key,
            channel=self.name,
            campaign_id=hand_off.campaign_id,
            body_length=len(hand_off.body),
        ).info("Handed off")
        return Outcome(kind=OutcomeKind.SENT)
