from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import attrs
import pytest

from reactor.channels.settings import SUFFIXES
from reactor.clock import TimeScale
from reactor.settings import (
    SETTINGS,
    VARIABLES,
    LogFormat,
    LogLevel,
    Settings,
    SettingsError,
    load_settings,
)
from schemas.hand_off import ChannelSpec, OnUnknown

SECRET = "correct-horse-battery"


def problems(**environ):
    """Read an environment that is wrong, and say why."""
    with pytest.raises(SettingsError) as raised:
        load_settings(environ)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return raised.value.problems


def test_defaults():
    """Without any variable every setting has its default, and there is nothing to warn of."""
    assert load_settings({}) == Settings()


def test_every_variable(tmp_path):
    """Each variable reaches its field, in its type."""
    environ = {
        "MONGODB_URI": "mongodb+srv://cluster.example.com/?appName=x",
        "MONGODB_DB": "outreach",
        "POLLING_INTERVAL_SECONDS": "0.5",
        "MAX_CONCURRENT_CAMPAIGNS": "3",
        "MAX_CONVERSATIONS_PER_BATCH": "1000",
        "WORKER_THREADS": "64",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "JSON",
        "CHANGE_STREAM": "off",
        "LEASE_SECONDS": "9",
        "CHANNEL_TIMEOUT_SECONDS": "3",
        "MAX_MESSAGES_PER_RECIPIENT_PER_DAY": "7",
        "RETENTION_DAYS": "0",
        "SHUTDOWN_GRACE_SECONDS": " 5 ",
        "HEARTBEAT_FILE": str(tmp_path / "alive"),
        "CAMPAIGN_TIME_SCALE": "3600",
        "CAMPAIGN_TIME_EPOCH": "2026-11-01T02:00:00.1239+02:00",
    }
    epoch = datetime(2026, 11, 1, microsecond=123_000, tzinfo=UTC)
    settings = load_settings(environ)
    assert settings == Settings(
        mongodb_uri="mongodb+srv://cluster.example.com/?appName=x",
        mongodb_db="outreach",
        polling_interval_seconds=0.5,
        max_concurrent_campaigns=3,
        max_conversations_per_batch=1000,
        worker_threads=64,
        log_level=LogLevel.DEBUG,
        log_format=LogFormat.JSON,
        change_stream=False,
        lease_seconds=9.0,
        channel_timeout_seconds=3.0,
        max_messages_per_recipient_per_day=7,
        retention_days=0,
        shutdown_grace_seconds=5.0,
        heartbeat_file=tmp_path / "alive",
        campaign_time_scale=3600.0,
        campaign_time_epoch=epoch,
    )
    assert settings.retention() is None
    assert Settings().retention() == timedelta(days=90)
    assert settings.time_scale() == TimeScale(scale=3600, epoch=epoch)
    assert set(environ) == {variable.name for variable in VARIABLES.values()}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("POLLING_INTERVAL_SECONDS", "abc", "expected a number of seconds greater than 0"),
        ("POLLING_INTERVAL_SECONDS", "0", "expected a number of seconds greater than 0"),
        ("POLLING_INTERVAL_SECONDS", "nan", "expected a number of seconds greater than 0"),
        ("POLLING_INTERVAL_SECONDS", "inf", "expected a number of seconds greater than 0"),
        ("POLLING_INTERVAL_SECONDS", "1e9", "expected at most 86400 seconds, one day"),
        ("MAX_CONCURRENT_CAMPAIGNS", "0", "expected a whole number from 1 to 10000"),
        ("MAX_CONVERSATIONS_PER_BATCH", "1001", "expected a whole number from 1 to 1000"),
        ("WORKER_THREADS", "4.5", "expected a whole number from 1 to 64"),
        ("WORKER_THREADS", "1_0", "expected a whole number from 1 to 64"),
        ("CHANGE_STREAM", "yes", "expected on or off"),
        ("LOG_FORMAT", "xml", "expected one of auto, json, text"),
        ("MONGODB_DB", "a.b", 'expected up to 63 bytes, none of / \\ . " $ * < > : | ?'),
        ("MONGODB_DB", "ä" * 32, 'expected up to 63 bytes, none of / \\ . " $ * < > : | ?'),
        ("MONGODB_DB", "admin", "expected a database of its own, this one is MongoDB's"),
        ("CAMPAIGN_TIME_SCALE", "-1", "expected a number greater than 0"),
    ],
)
def test_wrong_value(name, text, expected):
    """A wrong value is told with its variable and what was expected."""
    assert problems(**{name: text}) == (f"{name}={text!r}: {expected}",)


def test_all_problems_at_once():
    """Whoever sets up a deployment sees everything that is wrong in one go."""
    found = problems(
        POLLING_INTERVAL_SECONDS="abc",
        LOG_LEVEL="loud",
        CHANNEL_TIMEOUT_SECONDS="20",
        CHANNEL_EMAIL="gopher://host",
        CHANNEL_SMS_ADDRESS="phone",
    )
    assert found == (
        "POLLING_INTERVAL_SECONDS='abc': expected a number of seconds greater than 0",
        "LOG_LEVEL='loud': expected one of TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR, CRITICAL",
        "LEASE_SECONDS=30: expected at least 60, three times CHANNEL_TIMEOUT_SECONDS=20",
        "CHANNEL_SMS_ADDRESS: there is no CHANNEL_SMS",
        "CHANNEL_EMAIL='gopher://…': unknown scheme; known: file, http, https, log, smtp, smtps",
    )


def test_contradiction_is_not_blamed_on_a_default():
    """A lease that cannot be read is one problem, not also one that is too short."""
    (problem,) = problems(LEASE_SECONDS="long", CHANNEL_TIMEOUT_SECONDS="20")
    assert problem.startswith("LEASE_SECONDS='long'")


def test_lease_of_exactly_three_timeouts():
    """Three time-outs are enough for a lease."""
    assert load_settings({"CHANNEL_TIMEOUT_SECONDS": "10", "LEASE_SECONDS": "30"})


@pytest.mark.parametrize("epoch", ["2026-01-01", "2026-01-01T00:00:00", "yesterday", "0"])
def test_epoch_needs_its_zone(epoch):
    """A date without a zone is nobody's."""
    assert problems(CAMPAIGN_TIME_SCALE="60", CAMPAIGN_TIME_EPOCH=epoch) == (
        f"CAMPAIGN_TIME_EPOCH={epoch!r}: expected a date with its zone, like 2026-01-01T00:00:00Z",
    )


def test_scale_needs_an_epoch():
    """Workers that scale time from different beginnings would not agree on what is due."""
    assert problems(CAMPAIGN_TIME_SCALE="60") == (
        "CAMPAIGN_TIME_EPOCH: expected a date, because CAMPAIGN_TIME_SCALE=60",
    )
    assert load_settings({"CAMPAIGN_TIME_SCALE": "1"}).time_scale() == TimeScale()


def test_epoch_is_utc():
    """An epoch in another zone is the same moment."""
    settings = load_settings({"CAMPAIGN_TIME_EPOCH": "2026-01-01T00:00:00+01:00"})
    there = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert settings.campaign_time_epoch == there
    assert settings.campaign_time_epoch.tzinfo is UTC


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_is_unset(text):
    """A variable that a template of a deployment left empty has its default."""
    names = [variable.name for variable in VARIABLES.values()]
    assert load_settings(dict.fromkeys([*names, "CHANNEL_EMAIL"], text)) == Settings()


@pytest.mark.parametrize("text", ["localhost:27017", f"http://u:{SECRET}@host", "mongodb://"])
def test_mongodb_uri_is_never_echoed(text):
    """What was given for the database may be a password."""
    assert problems(MONGODB_URI=text) == (
        "MONGODB_URI: expected mongodb://HOST or mongodb+srv://HOST",
    )


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"mongodb://u:{SECRET}@a,b/db", "mongodb://***@a,b/db"),
        (f"mongodb://u:p@{SECRET}/?@a/db", "mongodb://***@a/db"),
        (f"mongodb://a/?tlsCertificateKeyFilePassword={SECRET}", "mongodb://a/?***"),
        ("mongodb://a", "mongodb://a"),
    ],
)
def test_secrets_are_masked(uri, shown):
    """Neither what the settings look like nor what they are shown as has a secret."""
    settings = load_settings({"MONGODB_URI": uri})
    assert settings.mongodb_uri == uri
    assert settings.shown()["MONGODB_URI"] == shown
    assert SECRET not in repr(settings)


def test_secrets_of_channels(tmp_path):
    """A channel's URL is masked wherever it is shown, also when it is wrong."""
    settings = load_settings({"CHANNEL_OUT": f"file:{tmp_path}/a?{SECRET}"})
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.shown())
    wrong = {
        "CHANNEL_A": f"ftp://u:{SECRET}@host",
        "CHANNEL_B": SECRET,
        "CHANNEL_C": f"file://u:{SECRET}@host/x",
    }
    found = problems(**wrong)
    assert len(found) == 3
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAX_CONCURENT_CAMPAIGNS", "MAX_CONCURRENT_CAMPAIGNS"),
        ("MONGO_URI", "MONGODB_URI"),
        ("log_level", "LOG_LEVEL"),
    ],
)
def test_near_miss(name, meant):
    """A misspelt variable is ignored, but not in silence."""
    settings = load_settings({name: "3", "PATH": "/bin", "HOME": "/", "OTEL_SERVICE_NAME": "x"})
    assert settings.warnings == (f"{name} is not a setting (did you mean {meant}?)",)


def test_channels(tmp_path):
    """A channel has the lower-cased name, and sends to the address kind of it or of another."""
    settings = load_settings(
        {
            "CHANNEL_EMAIL": f"file:{tmp_path / 'out.jsonl'}",
            "CHANNEL_SMS_URGENT": "log:",
            "CHANNEL_SMS_URGENT_ADDRESS": "SMS",
            "CHANNEL_SMS_URGENT_ON_UNKNOWN": "hold",
        }
    )
    assert settings.channel_specs() == {
        "email": ChannelSpec(name="email", address_kind="email"),
        "sms_urgent": ChannelSpec(name="sms_urgent", address_kind="sms", on_unknown=OnUnknown.HOLD),
    }
    shown = list(settings.shown().items())
    assert shown[shown.index(("CHANNEL_SMS_URGENT", "log:")) :] == [
        ("CHANNEL_SMS_URGENT", "log:"),
        ("CHANNEL_SMS_URGENT_ADDRESS", "sms"),
        ("CHANNEL_SMS_URGENT_ON_UNKNOWN", "hold"),
        ("CHANNEL_SMS_URGENT_RATE", "none"),
        ("CHANNEL_SMS_URGENT_BURST", "none"),
    ]


def test_the_rate_of_a_channel():
    """A rate is so many messages in a unit of time; the burst is a quarter of a second's."""
    settings = load_settings(
        {
            "CHANNEL_A": "log:",
            "CHANNEL_A_RATE": "50/s",
            "CHANNEL_B": "log:",
            "CHANNEL_B_RATE": "600/m",
            "CHANNEL_B_BURST": "7",
            "CHANNEL_C": "log:",
            "CHANNEL_C_RATE": "36/h",
        }
    )
    specs = settings.channel_specs()
    assert [(specs[name].rate, specs[name].burst) for name in "abc"] == [
        (50, 12),
        (10, 7),
        (0.01, 1),
    ]
    assert settings.shown()["CHANNEL_B_RATE"] == "600/m"


@pytest.mark.parametrize("rate", ["50", "0/s", "-1/s", "50/w", "x/s", "50/s/s"])
def test_wrong_rates(rate):
    """What is no rate is told with what was expected."""
    expected = "expected a rate like 50/s, 600/m, 10000/h or 200000/d"
    assert problems(CHANNEL_A="log:", CHANNEL_A_RATE=rate) == (
        f"CHANNEL_A_RATE='{rate}': {expected}",
    )


def test_what_a_channel_does_not_have():
    """A variable that means nothing to a channel of this kind is a problem, not overlooked."""
    assert problems(CHANNEL_A="log:", CHANNEL_A_SECRET="x", CHANNEL_A_FROM="y") == (
        "CHANNEL_A='log:': log: has no SECRET and no FROM",
    )


def test_wrong_suffix_value():
    """What is wrong with a channel's other variables is told like any setting."""
    kind = "expected an address kind like email, of letters, digits and _ . -"
    assert problems(CHANNEL_A="log:", CHANNEL_A_ADDRESS="e mail", CHANNEL_A_ON_UNKNOWN="x") == (
        f"CHANNEL_A_ADDRESS='e mail': {kind}",
        "CHANNEL_A_ON_UNKNOWN='x': expected one of resend, assume_sent, hold",
    )


def test_name_that_ends_in_a_suffix():
    """It is always the suffix: a variable never has two meanings."""
    assert problems(CHANNEL_POSTAL_ADDRESS="log:") == (
        "CHANNEL_POSTAL_ADDRESS: there is no CHANNEL_POSTAL",
    )
    assert problems(CHANNEL_POSTAL_ADDRESS="log:", CHANNEL_POSTAL_ADDRESS_ADDRESS="postal") == (
        "CHANNEL_POSTAL_ADDRESS: there is no CHANNEL_POSTAL",
        "CHANNEL_POSTAL_ADDRESS_ADDRESS: there is no CHANNEL_POSTAL_ADDRESS",
    )
    bare = load_settings({"CHANNEL_ADDRESS": "log:", "CHANNEL_ADDRESS_ADDRESS": "postal"})
    assert bare.channel_specs() == {"address": ChannelSpec(name="address", address_kind="postal")}


def test_timeout_is_no_channel():
    """A setting of ours that looks like a channel is a setting."""
    assert load_settings({"CHANNEL_TIMEOUT_SECONDS": "5"}).channels == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CHANNEL_EMAIL_ADRESS", "CHANNEL_EMAIL_ADDRESS"),
        ("CHANNEL_TIMEOUT_SECOND", "CHANNEL_TIMEOUT_SECONDS"),
    ],
)
def test_misspelt_suffix(name, meant):
    """A misspelt suffix reads like a channel; the problem says what was meant."""
    (problem,) = problems(CHANNEL_EMAIL="log:", **{name: "5"})
    expected = f"expected a URL, such as file:PATH or log: (did you mean {meant}?)"
    assert problem == f"{name}='…': {expected}"


@pytest.mark.parametrize("name", ["CHANNEL_", "CHANNEL_email", "CHANNEL_A.B", "CHANNEL__A"])
def test_channel_name(name):
    """Only a name that templates can spell is a channel's."""
    assert problems(**{name: "log:"}) == (
        f"{name}: expected CHANNEL_ and a name of A-Z, 0-9 and _",
    )


def test_relative_path(tmp_path, monkeypatch):
    """A path may be relative, absolute, or a file URL, and its file need not be there."""
    monkeypatch.chdir(tmp_path)
    for url in ("file:a.jsonl", f"file:{tmp_path}/a.jsonl", f"file://{tmp_path}/a.jsonl"):
        assert load_settings({"CHANNEL_EMAIL": url}).channels["email"].url == url
    assert not Path("a.jsonl").exists()


def test_wrong_paths(tmp_path):
    """A file that no line can be appended to is told before a worker starts."""
    directory = "expected a directory that can be written to"
    cases = {
        "file:": "expected file:PATH, the path of a file",
        f"file:{tmp_path}": "expected file:PATH, the path of a file",
        f"file:{tmp_path}/no/a": f"{directory}, {tmp_path}/no is not",
        "file://host/a": "expected file:PATH or file:///PATH, without a host",
        "file:/dev/full": "expected a regular file, not a pipe or a device",
        "log:x": "expected log: and nothing after it",
    }
    for url, expected in cases.items():
        assert problems(CHANNEL_EMAIL=url) == (f"CHANNEL_EMAIL='{url}': {expected}",)


def test_heartbeat_file_needs_its_directory(tmp_path):
    """A heartbeat that can never be written would have every worker restarted."""
    expected = "expected the path of a file, in a directory that can be written to"
    for path in (f"{tmp_path}/no/a", str(tmp_path)):
        assert problems(HEARTBEAT_FILE=path) == (f"HEARTBEAT_FILE={path!r}: {expected}",)


def test_documentation():
    """Each field that is read from a variable is documented, with a default that reads as one."""
    documented = {doc.name: doc for doc in SETTINGS}
    assert len(documented) == len(SETTINGS)
    fields = {field.name.upper() for field in attrs.fields(Settings)} - {"CHANNELS", "WARNINGS"}
    suffixes = {f"CHANNEL_<NAME>_{suffix.name}" for suffix in SUFFIXES.values()}
    assert set(documented) == fields | suffixes | {"CHANNEL_<NAME>"}
    assert all(doc.meaning.endswith(".") for doc in SETTINGS)
    told = {"none", "the channel's name", documented["HEARTBEAT_FILE"].default}
    defaults = {
        name: doc.default
        for name, doc in documented.items()
        if "<" not in name and doc.default not in told
    }
    assert load_settings(defaults) == Settings()
