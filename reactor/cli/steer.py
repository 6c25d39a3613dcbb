"""`reactor pause | resume | cancel`: an update for a campaign or a conversation, and its answer."""

from datetime import UTC, datetime
from typing import Any

import click
from attrs import frozen
from bson.objectid import ObjectId

from reactor.cli.answers import answers_to, timeout_option
from reactor.cli.failure import Failure
from reactor.cli.find import ambiguous, find_campaigns, find_conversations, not_found
from reactor.cli.output import text
from reactor.cli.session import Session, with_session
from schemas.duration import parse_duration

_target = click.argument("target", metavar="CAMPAIGN|CONVERSATION")
_timeout = timeout_option(10.0, "How long to wait for the worker's answer.")
_no_wait = click.option("--no-wait", is_flag=True, help="Insert the update and go.")

ANSWERED_WELL = frozenset({"applied", "ignored"})


@frozen(kw_only=True)
class Steering:
    """What is asked for: the kind of an update, and until when or for how long."""

    kind: str
    until: str | None = None


class Until(click.ParamType[str]):
    """A time with its zone, or a duration from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            _when(value, datetime(2000, 1, 1, tzinfo=UTC))
        except ValueError:
            self.fail("expected a time like 2026-12-01T09:00:00Z or a duration like 2d", param, ctx)
        return str(value)


@click.command()
@_target
@click.option("--until", type=Until(), help="Resume by itself then: a time, or a duration like 2d.")
@_timeout
@_no_wait
def pause(target: str, *, until: str | None, timeout: float, no_wait: bool) -> None:
    """
    Hold a campaign or a conversation.

    Nothing is handed off and waits stand still until `resume`, or the time of --until. Replies,
    opt-outs and bounces are applied meanwhile. Deadlines do not stand still.
    """
    _steer(target, Steering(kind="pause", until=until), None if no_wait else timeout)


@click.command()
@_target
@_timeout
@_no_wait
def resume(target: str, *, timeout: float, no_wait: bool) -> None:
    """Go on with what is paused: the rest of its waits runs on."""
    _steer(target, Steering(kind="resume"), None if no_wait else timeout)


@click.command()
@_target
@_timeout
@_no_wait
def cancel(target: str, *, timeout: float, no_wait: bool) -> None:
    """
    End a campaign or a conversation for good.

    Nothing is handed off any more; there is no way back.
    """
    _steer(target, Steering(kind="cancel"), None if no_wait else timeout)


@with_session
async def _steer(session: Session, target: str, steering: Steering, seconds: float | None) -> None:
    inbox_name, subject = await _subject(session, target)
    update = {"_id": ObjectId(), **subject, "kind": steering.kind}
    if steering.until:
        update["until"] = _when(steering.until, session.now)
    inbox = session.inbox(inbox_name)
    await inbox.insert_one(update)
    what = (
        f"{steering.kind} of {' '.join(subject).removesuffix('_id')} {next(iter(subject.values()))}"
    )
    if seconds is None:
        click.echo(f"{what}: inserted as {update['_id']}")
        return
    answers = await answers_to(inbox, [update["_id"]], seconds)
    if not answers:
        raise Failure(
            f"{what}: inserted as {update['_id']}, and not answered within {seconds:g} s. "
            "It takes effect as soon as a worker runs."
        )
    (answer,) = answers.values()
    said = f"{what}: {answer['status']}"
    if answer.get("reason"):
        said += f", {text(answer['reason'])}"
    if answer["status"] not in ANSWERED_WELL:
        raise Failure(said)
    click.echo(said)


async def _subject(session: Session, target: str) -> tuple[str, dict[str, Any]]:
    """Find what is meant: the inbox for its updates, and the field that names it."""
    fields = {"_id": 1, "name": 1, "recipient.id": 1}
    campaigns = await find_campaigns(session.database, target, fields)
    conversations = await find_conversations(session.database, target, fields)
    if not campaigns and not conversations:
        raise not_found("campaign or conversation", target)
    if len(campaigns) + len(conversations) > 1:
        named = [f"campaign {each['_id']}  {text(each.get('name'))}" for each in campaigns]
        named += [
            f"conversation {each['_id']}  {text(each['recipient']['id'])}" for each in conversations
        ]
        raise ambiguous(target, named)
    if campaigns:
        return "campaign_updates", {"campaign_id": campaigns[0]["_id"]}
    return "conversation_updates", {"conversation_id": conversations[0]["_id"]}


def _when(until: str, now: datetime) -> datetime:
    """Read a time with its zone, or a duration from now; ValueError if it is neither."""
    try:
        moment = datetime.fromisoformat(until)
    except ValueError:
        return now + parse_duration(until)
    if moment.tzinfo is None:
        raise ValueError("expected a zone")
    return moment.astimezone(UTC)
