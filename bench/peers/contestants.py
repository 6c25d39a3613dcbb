"""The peers as contestants: what each needs, what it is given, and how its steps are counted."""

import json
import os
import subprocess
import time
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from shutil import which

from attrs import frozen
from pymongo import AsyncMongoClient

from bench.due import MASTER, all_counted, all_done, copy_due
from bench.peers.servers import find, postgres, psql, redis
from bench.recorded import Step

HERE = Path(__file__).parent
#: Where `make bench-peers` installs them.
INSTALLED = HERE.with_name(".peers")
PYTHON = INSTALLED / "venv" / "bin" / "python"
DATABASE = "bench_peer"


@frozen
class Peer:
    name: str
    #: The file beside this one that runs it.
    program: str
    #: What share of the recipients it takes: the slower ones take fewer.
    share: float
    #: The server that it has beside the mongod that is measured, if any: `redis`, `postgres`.
    server: str | None = None

    def missing(self):
        """Say what installs what it lacks; nothing, if all is there."""
        tools = {None: (), "redis": ("redis-server",), "postgres": ("initdb", "postgres", "psql")}
        lacking = [tool for tool in tools[self.server] if not find(tool)]
        wanted = [f"a package with {', '.join(lacking)}"] if lacking else []
        node = self.program.endswith(".mjs")
        if node and not which("node"):
            wanted.append("Node.js")
        if not (INSTALLED / "node_modules" if node else PYTHON).exists():
            wanted.append("make bench-peers")
        return ", ".join(wanted)

    async def run(self, uri, directory, steps):
        """Give the seconds that so many steps take, from the word to begin to the last entry."""
        if self.server == "postgres":
            return await self._on_postgres(uri, directory, steps)
        return await self._on_mongod(uri, directory, steps)

    async def _on_mongod(self, uri, directory, steps):
        async with AsyncMongoClient(uri, w="majority") as client:
            await copy_due(client, DATABASE, steps, datetime.now(UTC))
            with (
                redis() if self.server else nullcontext() as socket,
                self._begun(uri, DATABASE, directory / "step.bson", socket) as began,
            ):
                ended = await all_done(client[DATABASE], steps)
            await client.drop_database(DATABASE)
        return ended - began

    async def _on_postgres(self, uri, directory, steps):
        with postgres() as home:
            await _fill(home, uri, Step.read(directory / "step.bson"), steps)
            with self._begun(home) as began, _counting(home) as count:
                return await all_counted(count, steps) - began

    @contextmanager
    def _begun(self, *arguments):
        """Run its program as long as the block runs; give the moment at which it was let loose."""
        arguments = [str(each) for each in arguments]
        if self.program.endswith(".mjs"):
            # As text, so that it finds its packages where they were installed.
            source = (HERE / self.program).read_text(encoding="utf-8")
            command, where = ["node", "--input-type=module", "--eval", source], INSTALLED
        else:
            module = self.program.removesuffix(".py")
            run = f"import {module}; {module}.main()"
            # What they would warn of is that this is a benchmark: of root, say.
            command, where = [PYTHON, "-W", "ignore", "-c", run], HERE
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=where,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{self.name} did not start")
            began = time.time()
            print(file=process.stdin, flush=True)
            yield began
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()


#: Slow ones get no more to do than takes some seconds.
PEERS = (
    Peer("Agenda", "agenda.mjs", share=0.1),
    Peer("Celery", "celery_steps.py", share=0.2, server="redis"),
    Peer("Procrastinate", "procrastinate_steps.py", share=0.2, server="postgres"),
    Peer("Graphile Worker", "graphile.mjs", share=1, server="postgres"),
)


async def _fill(home, uri, step, steps):
    """Make the tables of bench/peers/tables.sql, with so many of the conversations."""
    async with AsyncMongoClient(uri, tz_aware=True) as client:
        cursor = client[MASTER].conversations.find(limit=steps, sort={"_id": 1})
        lines = "".join([_as_json(each) + "\n" async for each in cursor])
    patch = _as_json(step.clear["$set"] | {"history": step.clear["$push"]["history"]["$each"]})
    given = ["-v", f"patch={patch}", "-v", f"entry={_as_json(step.entry)}"]
    _psql(home, *given, "-f", HERE / "tables.sql")
    # Delimiter and quote are such as no JSON has: each line is one value, as it stands.
    _psql(
        home,
        "-c",
        r"\copy raw FROM STDIN (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')",
        text=lines,
    )
    _psql(
        home, "-c", "INSERT INTO conversations SELECT document->>'_id', 0, now(), document FROM raw"
    )
    _psql(home, "-c", "DROP TABLE raw", "-c", "VACUUM ANALYZE", "-c", "CHECKPOINT")


def _psql(home, *arguments, text=""):
    subprocess.run([*psql(home), *arguments], input=text.encode(), check=True)


def _as_json(document):
    return json.dumps(document, default=datetime.isoformat, ensure_ascii=False)


@contextmanager
def _counting(home):
    """Give a function that counts the messages, over one connection that stays."""
    session = subprocess.Popen(
        psql(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )

    async def count():
        print("SELECT count(*) FROM messages;", file=session.stdin, flush=True)
        return int(session.stdout.readline())

    with session:
        yield count
        session.stdin.close()
