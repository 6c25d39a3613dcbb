"""The channel that docs/channels.md shows: it is the file, and it runs in a worker like any other."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from reactor.channels.registry import CHANNELS
from reactor.settings import SettingsError, load_settings
from tests.world import world as make_world

ROOT = Path(__file__).parents[1]
FILE = ROOT / "examples" / "channel_spool.py"
PAGE = ROOT / "docs" / "channels.md"


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """Enter the class in the table, as the page says, and give a directory for it."""
    spec = importlib.util.spec_from_file_location("channel_spool", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line = re.search(r'^    "(\w+)": (\w+),$', PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    monkeypatch.setitem(CHANNELS, line[1], getattr(module, line[2]))
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


def test_the_page_shows_the_file():
    """What one copies from the page is what is run here."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert FILE.read_text(encoding="utf-8") in blocks


async def test_it_runs_in_a_worker(spool, mongodb_uri, mongodb_client, database_name, tmp_path):
    """Messages leave; while there is nowhere to write to they wait."""
    settings = {"CHANNEL_EMAIL": f"spool:{spool}", "CHANNEL_EMAIL_CONCURRENCY": "2"}
    async with make_world(
        mongodb_uri, mongodb_client, database_name, tmp_path, **settings
    ) as world:
        await world.submit(3)
        files = sorted(spool.iterdir())
        told = [json.loads(file.read_bytes()) for file in files]
        assert sorted(one["recipient_id"] for one in told) == ["r0", "r1", "r2"]
        assert {one["body"] for one in told} == {"Hello Ada"}
        assert {one["key"] for one in told} == set(world.database.messages.distinct("_id"))
        spool.rename(tmp_path / "away")
        await world.tell("send", message={"body": "More"})
        conversation = world.conversation()
        assert conversation["last_error"] == "ENOENT"
        assert conversation["waiting_for"] == ["retry"]
        (tmp_path / "away").rename(spool)
        await world.pass_time(minutes=5)
        (new,) = set(spool.iterdir()) - set(files)
        assert json.loads(new.read_bytes())["body"] == "More"


async def test_what_comes_again_replaces_itself(
    spool, mongodb_uri, mongodb_client, database_name, tmp_path
):
    """A worker that dies after a hand-off leaves a doubt; the next one writes the same file again."""
    settings = {"CHANNEL_EMAIL": f"spool:{spool}"}
    async with make_world(
        mongodb_uri, mongodb_client, database_name, tmp_path, **settings
    ) as world:
        channel = world.worker.engine.watches["email"].channel
        real, given = type(channel).send, []

        async def dying(self, hand_off):
            given.append(hand_off.key)
            outcome = await real(self, hand_off)
            if len(given) == 1:
                raise ConnectionResetError
            return outcome

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(channel), "send", dying)
            await world.submit(1)
            (file,) = spool.iterdir()
            before = file.read_bytes()
            assert world.conversation()["last_error"] == "ConnectionResetError"
            await world.pass_time(minutes=5)
        assert len(given) == 2
        assert set(given) == {json.loads(before)["key"]}
        assert [file] == list(spool.iterdir())
        assert file.read_bytes() == before
        assert [one["status"] for one in world.messages()] == ["sent"]


@pytest.mark.parametrize("url", ["spool:", "spool:/nowhere/at/all"])
def test_a_wrong_directory_is_a_problem_at_the_start(url, spool):
    """Who misconfigures it is told so before a worker starts."""
    with pytest.raises(SettingsError, match="expected spool:DIRECTORY"):
        load_settings({"CHANNEL_EMAIL": url})


def test_a_setting_that_it_lacks_is_a_problem(spool):
    """`own` is what it has beside the settings of every channel."""
    with pytest.raises(SettingsError, match="spool: has no SECRET"):
        load_settings({"CHANNEL_EMAIL": f"spool:{spool}", "CHANNEL_EMAIL_SECRET": "x"})
