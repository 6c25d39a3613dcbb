"""
Procrastinate on PostgreSQL: a job for each conversation.

Run by bench/peers/contestants.py, with a Python of its own: SOCKET_DIRECTORY. It says "ready", begins
at a line, and stops at the end of its input.
"""

import asyncio
import sys

from procrastinate import App, PsycopgConnector

(DIRECTORY,) = sys.argv[1:]
CONCURRENCY = 20

connector = PsycopgConnector(
    conninfo=f"host={DIRECTORY} user=bench dbname=postgres",
    min_size=CONCURRENCY,
    max_size=CONCURRENCY,
)
app = App(connector=connector)


@app.task(name="step")
async def step(identity):
    async with connector.pool.connection() as connection:
        await connection.execute("SELECT step(%s)", [identity], prepare=True)


def main():
    asyncio.run(_main())


async def _main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        rows = await connector.execute_query_all_async("SELECT id FROM conversations")
        await step.batch_defer_async(*({"identity": row["id"]} for row in rows))
        await connector.execute_query_async("ANALYZE")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        )
        await asyncio.to_thread(sys.stdin.read)
        worker.cancel()
        await asyncio.wait([worker])
