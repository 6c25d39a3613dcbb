"""`reactor init-db`: indexes, and validators on the collections that the agent writes."""

from collections.abc import Mapping
from typing import Any

import click

from reactor.cli.session import Document, Session, with_session
from reactor.indexes import ensure_indexes, index_plan
from schemas.json_schema import mongo_schema

#: Collections that other programs write to, and the schema of their documents.
VALIDATED = {
    "batch_requests": "batch-request",
    "campaign_templates": "campaign-template",
    "conversation_updates": "conversation-update",
    "campaign_updates": "campaign-update",
}


@click.command("init-db")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def init_db(*, dry_run: bool) -> None:
    """
    Make the indexes and validators that are missing.

    May be run again at any time. The validators refuse documents that do not have the shape of
    `reactor schema`; what is in the database already stays. The worker does not rely on them.
    """
    _init_db(dry_run=dry_run)


@with_session
async def _init_db(session: Session, *, dry_run: bool) -> None:
    present = {
        each["name"]: each.get("options", {})
        async for each in await session.database.list_collections()
    }
    steps = 0
    for collection, schema in VALIDATED.items():
        wanted = {
            "validator": {"$jsonSchema": mongo_schema(schema)},
            "validationLevel": "moderate",
            "validationAction": "error",
        }
        steps += await _validator(session, collection, wanted, present, dry_run=dry_run)
    steps += await _indexes(session, dry_run=dry_run)
    if not steps:
        click.echo("Nothing to do: indexes and validators are as they should be.")
    elif dry_run:
        click.echo("Nothing was done (--dry-run).")


async def _validator(
    session: Session,
    collection: str,
    wanted: Mapping[str, Any],
    present: Mapping[str, Document],
    *,
    dry_run: bool,
) -> int:
    """Create the collection with its validator, or change that; give the number of steps taken."""
    options = present.get(collection)
    if options is not None and {name: options.get(name) for name in wanted} == wanted:
        return 0
    if options is None:
        click.echo(f"create {collection} with its validator")
        if not dry_run:
            await session.database.create_collection(collection, **wanted)
        return 1
    click.echo(f"{'change' if options.get('validator') else 'add'} the validator of {collection}")
    if not dry_run:
        await session.database.command("collMod", collection, **wanted)
    return 1


async def _indexes(session: Session, *, dry_run: bool) -> int:
    plan = await index_plan(session.database)
    for step in plan:
        click.echo(step)
    if plan and not dry_run:
        await ensure_indexes(session.database)
    return len(plan)
