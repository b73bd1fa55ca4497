"""A TCP connection to an API server that a test can cut, on loopback."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Link:
    """Listens at `port` and relays to `target`, both on 127.0.0.1, while entered.

    Hung, it takes connections and data and lets nothing through, as when packets are dropped. What a client has sent by then
    arrives once the link is mended, unless the client has reset the connection in the meantime. Refusing, there is nobody.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"link {port}", daemon=True)
        self._server: asyncio.Server | None = None
        self._through = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mend(self) -> None:
        """Let everything through (again)."""
        self._do(self._mend())

    def hang(self) -> None:
        """Let nothing through."""
        self._do(self._hang())

    def refuse(self) -> None:
        """Break all connections and accept no new ones."""
        self._do(self._refuse())

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _mend(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._through.set()

    async def _hang(self) -> None:
        self._through.clear()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # sockets of aborted connections are closed by the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._through.wait()
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._writers.discard(writer)
        both = {writer, onward}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, onward), self._pump(onward_reader, writer))
        finally:
            self._writers -= both
            for one in both:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunks: asyncio.Queue[bytes] = asyncio.Queue()
        sending = asyncio.create_task(self._send(chunks, writer))
        try:
            while chunk := await reader.read(65536):
                chunks.put_nowait(chunk)
        except OSError:
            sending.cancel()
            writer.transport.abort()
        else:
            chunks.put_nowait(b"")
        with suppress(asyncio.CancelledError):
            await sending

    async def _send(self, chunks: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await chunks.get():
                await self._through.wait()
                writer.write(chunk)
                await writer.drain()
            await self._through.wait()
            writer.close()
