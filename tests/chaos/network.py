"""
The network between everybody and the members of a replica set: a proxy before each member.

A member is known by its proxy's address, to clients and to the other members alike. Who connects is
told by the first message: members name their own port in it (`hostInfo`, as for mongobridge, with test
commands enabled), clients do not. So a cut may be between clients and a member, or around a member.

What is cut is swallowed in silence, as by a network: nobody gets an error. A connection that has lost
bytes is reset when the cut is over, for what comes after a gap makes no sense.
"""

import asyncio
import re
import socket
import struct
import threading

CLIENT = "client"
#: Directions, as seen from the member.
TO, FROM = "to", "from"
_HOST_INFO = re.compile(rb"hostInfo\x00.{4}[^\x00]*:(\d+)\x00", re.DOTALL)


class Network:
    """Proxies, one for each port of a member, on an event loop in a thread of its own."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.proxies = {}

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._call(lambda: [proxy.close() for proxy in self.proxies.values()])
        self._run(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, port):
        """Put a proxy before a port, and give the proxy's port."""
        proxy = Proxy(port)
        self.proxies[port] = proxy
        return self._run(proxy.listen())

    def cut(self, port, who, *ways):
        """Swallow what `who` (CLIENT, or a member's port) and the member at a port say to each other."""
        self._call(lambda: self.proxies[port].cuts.update((who, way) for way in ways))

    def isolate(self, port):
        """Swallow all that a member is told, and all that it says."""
        for other in self.proxies:
            if other == port:
                for who in (CLIENT, *(self.proxies.keys() - {port})):
                    self.cut(port, who, TO, FROM)
            else:
                self.cut(other, port, TO, FROM)

    def heal(self):
        """End all cuts."""
        self._call(lambda: [proxy.heal() for proxy in self.proxies.values()])

    def reset(self, who=CLIENT):
        """Break all connections of somebody, with a TCP reset."""
        self._call(lambda: [proxy.reset(who) for proxy in self.proxies.values()])

    def _call(self, change):
        async def change_in_loop():
            change()

        self._run(change_in_loop())

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


async def _end_tasks():
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


class Proxy:
    """Before one member."""

    def __init__(self, port):
        self.port = port
        self.cuts = set()
        self.links = set()
        self.server = None

    async def listen(self):
        """Listen on a free port, and give it."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0, backlog=512)
        return self.server.sockets[0].getsockname()[1]

    def close(self):
        """Listen no longer, and end what is open."""
        self.server.close()
        for link in tuple(self.links):
            link.break_off()

    def heal(self):
        """End all cuts; connections that have lost bytes are of no use any more."""
        self.cuts.clear()
        for link in tuple(self.links):
            if link.holed:
                link.break_off()

    def reset(self, who):
        """Break all connections of somebody."""
        for link in tuple(self.links):
            if link.who == who:
                link.break_off()


class _Link:
    """One connection: who has made it, its two ends, and whether bytes were lost."""

    def __init__(self, proxy, near):
        self.proxy = proxy
        self.who = None
        self.near = near
        self.far = None
        self.holed = False

    def passes(self, way):
        """Whether bytes go through; to ask is to lose them where not."""
        if (self.who, way) not in self.proxy.cuts:
            return True
        self.holed = True
        return False

    def break_off(self):
        """End the connection with a reset on both sides."""
        self.proxy.links.discard(self)
        for end in (self.near, self.far):
            if end is not None:
                _reset(end)


def _reset(transport):
    raw = transport.get_extra_info("socket")
    if raw is not None and not transport.is_closing():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Near(asyncio.Protocol):
    """The end towards whoever connects; the other end follows its first message."""

    def __init__(self, proxy):
        self.proxy = proxy
        self.waiting = b""
        self.link = None

    def connection_made(self, transport):
        """Take note of a connection, of nobody yet."""
        self.link = _Link(self.proxy, transport)
        self.proxy.links.add(self.link)

    def data_received(self, data):
        """Pass on what was said to the member."""
        link = self.link
        if link.who is None:
            found = _HOST_INFO.search(data)
            link.who = int(found[1]) if found else CLIENT
            self.waiting = b""
            connecting = asyncio.get_running_loop().create_task(self._connect())
            connecting.add_done_callback(lambda done: done.exception() and link.break_off())
        if not link.passes(TO):
            return
        if link.far is None:
            self.waiting += data
        else:
            link.far.write(data)

    async def _connect(self):
        loop = asyncio.get_running_loop()
        link = self.link
        far, _ = await loop.create_connection(lambda: _Far(link), "127.0.0.1", self.proxy.port)
        if link not in self.proxy.links:
            far.abort()
            return
        link.far = far
        if self.waiting:
            far.write(self.waiting)

    def pause_writing(self):
        """Whoever has connected reads slowly: the member has to wait."""
        if self.link.far is not None:
            self.link.far.pause_reading()

    def resume_writing(self):
        """It has read."""
        if self.link.far is not None:
            self.link.far.resume_reading()

    def connection_lost(self, _):
        """It is gone."""
        self.link.break_off()


class _Far(asyncio.Protocol):
    """The end towards the member."""

    def __init__(self, link):
        self.link = link

    def data_received(self, data):
        """Pass on what the member said."""
        if self.link.passes(FROM):
            self.link.near.write(data)

    def pause_writing(self):
        """The member reads slowly."""
        self.link.near.pause_reading()

    def resume_writing(self):
        """It has read."""
        self.link.near.resume_reading()

    def connection_lost(self, _):
        """The member is gone."""
        self.link.break_off()
