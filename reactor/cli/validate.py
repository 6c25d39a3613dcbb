"""`reactor validate`: what a worker would find wrong with a batch request, without a database."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import IO

import click

from handlers.opening import DUPLICATE_ADDRESS, DUPLICATE_ID, candidate
from handlers.request import Rejection, accept
from handlers.template_check import check_template
from reactor.cli.documents import Document, read_documents
from reactor.cli.failure import ExitCode
from reactor.cli.output import print_lines, text
from reactor.cli.session import read_settings
from schemas.batch_request import BatchRequest
from schemas.converter import (
    InvalidDocumentError,
    NewerSchemaError,
    read_batch_request,
    read_recipient,
    read_template,
)
from schemas.hand_off import ChannelSpec
from schemas.template import Template

#: Before every start: a file is not judged by the day on which it is looked at.
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
NO_CHANNELS = (
    "No channels are configured here (CHANNEL_<NAME>): taken for granted that every channel that "
    "is named exists and sends to the address of its own name."
)

type Channels = Mapping[str, ChannelSpec]


@click.command()
@click.argument("file", type=click.File(encoding="utf-8"))
def validate(file: IO[str]) -> None:
    """
    Say what is wrong with batch requests or templates.

    Reads FILE like `submit` (`-`: standard input). Prints a line for each problem: where, what was
    expected, what was found. Templates are compiled, recipients checked one by one. The exit code
    is 1 if there is any problem. Needs no database; channels are those of the environment
    (CHANNEL_<NAME>).
    """
    channels = read_settings().channel_specs()
    documents = read_documents(file)
    if not channels:
        click.echo(NO_CHANNELS, err=True)
    found = False
    for place, document in enumerate(documents):
        name = f"{file.name}: " if len(documents) == 1 else f"{file.name}[{place}]: "
        problems = list(_problems(document, channels))
        print_lines([name + problem for problem in problems] or [name + _summary(document)])
        found = found or bool(problems)
    if found:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _problems(document: Document, channels: Channels) -> Iterator[str]:
    try:
        if _is_template(document):
            template = read_template(document)
            yield from (
                problem.replace("$.template", "$", 1)
                for problem in check_template(template, channels or _assumed(template))
            )
        else:
            yield from _of_request(read_batch_request(document), channels)
    except InvalidDocumentError as error:
        yield from error.problems
    except NewerSchemaError as error:
        yield f"$.schema_version: {error.version} is newer than this reactor understands"


def _of_request(request: BatchRequest, channels: Channels) -> Iterator[str]:
    template = request.template
    recipients = request.recipients
    if template:
        channels = channels or _assumed(template)
        count = request.recipient_count if recipients is None else len(recipients)
        # Those of another collection cannot be counted here: taken for as many as announced.
        decision = accept(request, template, 1 if count is None else count, channels, LONG_AGO)
        if isinstance(decision, Rejection):
            yield from decision.problems
    ids: set[str] = set()
    addresses: set[str] = set()
    for index, raw in enumerate(recipients or ()):
        path = f"$.recipients[{index}]"
        for problem in _of_recipient(raw, template, channels, (ids, addresses)):
            yield problem.replace("$", path, 1)


def _of_recipient(
    raw: object,
    template: Template | None,
    channels: Channels,
    seen: tuple[set[str], set[str]],
) -> Iterator[str]:
    """Yield the problems of a recipient; `seen`: ids and address keys of those before it."""
    ids, addresses = seen
    try:
        recipient = read_recipient(raw, "$")
    except InvalidDocumentError as error:
        yield from error.problems
        return
    if recipient.id in ids:
        yield DUPLICATE_ID
    ids.add(recipient.id)
    if template is None:
        return
    found = candidate(recipient, None, template, channels)
    if isinstance(found, tuple):
        yield from found
        return
    if not addresses.isdisjoint(found.address_keys):
        yield DUPLICATE_ADDRESS
    addresses.update(found.address_keys)


def _assumed(template: Template) -> Channels:
    """Make up the channels that a template names."""
    names = {
        *template.channel,
        *(name for stage in template.stages for name in stage.channel),
        *(
            name
            for stage in template.stages
            for follow_up in stage.follow_ups
            for name in follow_up.channel
        ),
    }
    return {name: ChannelSpec(name=name, address_kind=name) for name in names}


def _is_template(document: Document) -> bool:
    return "stages" in document and not document.keys() & {"template", "recipients"}


def _summary(document: Document) -> str:
    if _is_template(document):
        return f"template {text(document['name'])}: no problems, {len(document['stages'])} stages"
    said = f"batch request {text(document['_id'])}: no problems"
    if isinstance(document.get("recipients"), list):
        said += f", {len(document['recipients'])} recipients"
    if document.get("template_ref"):
        said += "; its template is in the database and was not looked at"
    return said
