"""How a program that is compared begins: connected, warm, and at the moment when all falls due."""

import time

import anyio


async def ready_until(at, client, in_flight):
    """Open the connections that will be in use, say so, and wait for the moment (seconds)."""
    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(client.admin.command, "ping")
    print("ready", flush=True)
    await anyio.sleep(max(0.0, float(at) - time.time()))
