"""`reactor submit`: insert batch requests, and wait for the answer."""

from collections.abc import Mapping, Sequence
from typing import IO, Any

import click
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, WriteError

from reactor.cli.answers import answers_to, timeout_option
from reactor.cli.documents import Document, read_documents
from reactor.cli.failure import ExitCode, Failure
from reactor.cli.output import print_lines, tally, text
from reactor.cli.session import Session, with_session

CODE_DOCUMENT_VALIDATION = 121


@click.command()
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option("--wait", is_flag=True, help="Wait until a worker has answered, and show its answer.")
@timeout_option(60.0, "How long --wait waits.")
def submit(file: IO[str], *, wait: bool, timeout: float) -> None:
    """
    Insert batch requests, as the agent does.

    FILE (`-`: standard input) holds YAML, JSON or Extended JSON; several documents, or a list of
    them, are several requests. An `_id` that is there already is left as it is, so a request may be
    submitted again.

    With --wait the exit code is 1 if a request was rejected or is not answered in time.
    """
    requests = read_documents(file)
    for place, request in enumerate(requests):
        if not request.get("_id"):
            raise Failure(
                f"{file.name}: request {place + 1} has no _id. It is its identity for ever: "
                "make it from what the request is, for example renewal-2026-12-eu"
            )
    _submit(requests, timeout if wait else None)


@with_session
async def _submit(session: Session, requests: Sequence[Document], seconds: float | None) -> None:
    inbox = session.inbox("batch_requests")
    for request in requests:
        click.echo(f"{text(request['_id'])}: {await _insert(inbox, request)}")
    if seconds is None:
        return
    answers = await answers_to(inbox, [request["_id"] for request in requests], seconds)
    for _id, answer in answers.items():
        _show(_id, answer)
    if unanswered := sorted({text(each["_id"]) for each in requests if each["_id"] not in answers}):
        said = f"not answered within {seconds:g} s (does a worker run?): {', '.join(unanswered)}"
        raise Failure(said)
    if any(answer["status"] != "accepted" for answer in answers.values()):
        raise click.exceptions.Exit(ExitCode.FAILED)


async def _insert(inbox: AsyncCollection[Document], request: Document) -> str:
    try:
        await inbox.insert_one(request)
    except DuplicateKeyError:
        return "is there already, nothing inserted"
    except WriteError as error:
        if error.code != CODE_DOCUMENT_VALIDATION:
            raise
        advice = "`reactor validate` says what is wrong with it"
        raise Failure(f"{text(request['_id'])}: refused by the database: {advice}") from None
    return "inserted"


def _show(request: object, answer: Mapping[str, Any]) -> None:
    campaign = f", campaign {answer['campaign_id']}" if answer.get("campaign_id") else ""
    counts = tally(answer.get("counts"))
    click.echo(f"{text(request)}: {answer['status']}{campaign}{counts and f', {counts}'}")
    print_lines([f"  {problem}" for problem in answer.get("problems", ())])
    print_lines(
        [
            f"  recipient {rejected.get('id')!r}: {rejected.get('problem')}"
            for rejected in answer.get("rejected_recipients", ())
        ]
    )
