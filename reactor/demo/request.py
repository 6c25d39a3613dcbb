"""The demo's batch request: the example, cut or repeated to the number of recipients asked for."""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import yaml

type Document = dict[str, Any]

EXAMPLE = Path(__file__).parents[2] / "examples" / "renewal.yaml"


class RequestError(Exception):
    """There is no request to play; the text says why."""


def read_request(recipients: int) -> Document:
    """Read the example as it would be inserted; its first recipients, or all several times."""
    try:
        request: Document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(
            f"{EXAMPLE} is not there: the demo runs in a checkout, which has the examples"
        ) from None
    request["recipients"] = list(islice(_recipients(request["recipients"]), recipients))
    return request


def _recipients(originals: Sequence[Document]) -> Iterator[Document]:
    yield from originals
    for number in count(2):
        for original in originals:
            name, _, domain = original["address"]["email"].partition("@")
            yield {
                **original,
                "id": f"{original['id']}-{number}",
                "address": {"email": f"{name}+{number}@{domain}"},
            }
