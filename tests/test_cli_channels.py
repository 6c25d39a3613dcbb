from datetime import UTC, datetime, timedelta

import pytest
from bson import json_util
from bson.codec_options import CodecOptions

from handlers.circuit import alert_of
from reactor.cli.output import JSON_OPTIONS
from schemas.channel import ChannelState, Circuit, CircuitState
from schemas.converter import to_document
from tests.test_cli import insert_campaign, invoke

NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE = timedelta(minutes=1)
WHY = "12 of 14 recipients failed within a minute"
OPEN = Circuit(
    state=CircuitState.OPEN,
    since=NOW - 3 * MINUTE,
    until=NOW + 300 * MINUTE,
    reason=WHY,
    openings=1,
)
CLOSED = Circuit(since=NOW - 60 * MINUTE, until=None)


@pytest.fixture
def environment(mongodb_uri, database_name):
    """The environment of a command that works on this test's database."""
    return {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}


@pytest.fixture
def database(mongodb_client, database_name):
    """Give the test its database."""
    return mongodb_client.get_database(database_name, codec_options=CodecOptions(tz_aware=True))


def insert_channels(database, *states):
    """Insert what workers know of channels, and the alerts that changes were worth."""
    for state in states:
        database.channels.insert_one(to_document(state) | {"bucket": 1.5})
        alert = alert_of(ChannelState(id=state.id), state)
        if alert:
            database.alerts.insert_one(to_document(alert))


def lines_of(output, heading):
    """Give the lines of the table whose first heading is this, up to an empty line."""
    _, _, rest = output.partition(f"\n{heading} ")
    return rest.partition("\n\n")[0].splitlines()[1:]


def test_nothing_is_known(environment, database):
    """Without channels nothing is shown of them, nor of alerts."""
    assert invoke("status", **environment).output == "no campaigns\n"
    output = invoke("status", "--channels", **environment).output
    assert output == "nothing is known of channels\n"
    printed = invoke("status", "--channels", "--json", **environment).stdout
    assert json_util.loads(printed) == {"channels": [], "alerts": []}


def test_channels_and_open_alerts_are_shown(environment, database):
    """Below the campaigns: circuit, since, until, why, the last success, a silence, and the alert."""
    insert_campaign(database)
    insert_channels(
        database,
        ChannelState(id="sms", circuit=OPEN, succeeded_at=NOW - 4 * MINUTE),
        ChannelState(id="email", circuit=CLOSED, not_before=NOW + 200 * MINUTE),
    )
    output = invoke("status", **environment).output
    assert output.startswith("CAMPAIGN ")
    email, sms = lines_of(output, "CHANNEL")
    assert email.split()[:2] == ["email", "closed"]
    assert f"{NOW + 200 * MINUTE:%H:%M:%S}Z" in email
    assert sms.split()[:2] == ["sms", "open"]
    assert sms.endswith(WHY)
    for moment in (OPEN.since, OPEN.until, NOW - 4 * MINUTE):
        assert f"{moment:%H:%M:%S}Z" in sms
    (alert,) = lines_of(output, "ALERT")
    assert alert.split()[:2] == ["circuit_opened", "sms"]
    assert alert.endswith(WHY)


def test_what_is_over_is_not_shown(environment, database):
    """No alert that was resolved, no silence that is past, no reason of a circuit that is closed."""
    circuit = Circuit(since=NOW, until=NOW - MINUTE, reason="old")
    insert_channels(database, ChannelState(id="email", circuit=circuit, not_before=NOW - MINUTE))
    database.alerts.insert_one({"_id": "a", "kind": "circuit_opened", "resolved_at": NOW})
    output = invoke("status", **environment).output
    assert "ALERT" not in output
    assert "old" not in output
    assert f"{NOW - MINUTE:%H:%M:%S}Z" not in output


def test_programs_read_channels_by_name(environment, database):
    """--channels prints both as JSON; the list of campaigns stays what it was, a list."""
    insert_campaign(database)
    insert_channels(database, ChannelState(id="sms", circuit=OPEN))
    printed = invoke("status", "--channels", "--json", **environment).stdout
    shown = json_util.loads(printed, json_options=JSON_OPTIONS)
    assert [each["_id"] for each in shown["channels"]] == ["sms"]
    assert shown["channels"][0]["circuit"]["state"] == "open"
    assert shown["channels"][0]["circuit"]["until"] == OPEN.until
    assert "bucket" not in shown["channels"][0]
    assert [each["channel"] for each in shown["alerts"]] == ["sms"]
    listed = json_util.loads(invoke("status", "--json", **environment).stdout)
    assert [each["name"] for each in listed] == ["renewal"]


def test_a_campaign_is_shown_without_channels(environment, database):
    """They are those of all campaigns: to ask for both is a usage error."""
    insert_campaign(database)
    insert_channels(database, ChannelState(id="sms", circuit=OPEN))
    assert "sms" not in invoke("status", "renewal", **environment).output
    result = invoke("status", "renewal", "--channels", **environment)
    assert (result.exit_code, result.stdout) == (2, "")


def test_documents_of_others_do_no_harm(environment, database):
    """A bucket alone is a closed circuit; what is no text's channel is passed over; text is text."""
    database.channels.insert_many([{"_id": "email", "bucket": 1.5}, {"_id": 7}])
    database.alerts.insert_one({"_id": "a", "kind": "\x1b[2J", "at": "soon"})
    output = invoke("status", **environment).output
    (email,) = lines_of(output, "CHANNEL")
    assert email.split() == ["email", "closed"]
    assert "\x1b" not in output
    assert "soon" in output
