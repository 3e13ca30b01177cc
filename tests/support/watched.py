"""A prompt run on a server while a browser's socket listens: what it would show."""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from p2p_core.hosts.launch.server import Server

TEXT = 3
ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Watched:
    """What came for one prompt."""

    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last of each kind."""
    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Lines under nodes, by node."""

    outputs: dict[str, Any] = field(default_factory=dict)
    """What output nodes gave, by node; also of those that did not run again."""

    @property
    def cached(self) -> set[str]:
        """Nodes that the host did not run, as their outputs were there."""
        return set(self.messages["execution_cached"]["nodes"])


def watch(server: Server, prompt: Mapping[str, Any], seconds: float = 600) -> Watched:
    """Queue a prompt as a browser does, to its end."""
    return asyncio.run(asyncio.wait_for(_watch(server, prompt), seconds))


async def _watch(server: Server, prompt: Mapping[str, Any]) -> Watched:
    client, seen = uuid.uuid4().hex, Watched()
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.ws_connect(f"/ws?clientId={client}") as socket,
    ):
        body = {"prompt": prompt, "client_id": client}
        async with session.post("/prompt", json=body) as answer:
            said = await answer.json()
            assert answer.status == 200, said
            assert not said["node_errors"], said
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                kind, size = struct.unpack_from(">II", message.data)
                if kind == TEXT:
                    node = message.data[8 : 8 + size].decode()
                    seen.texts[node].append(message.data[8 + size :].decode())
            elif message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["data"].get("prompt_id") == said["prompt_id"]:
                    seen.messages[event["type"]] = event["data"]
                    if event["type"] == "executed":
                        seen.outputs[event["data"]["node"]] = event["data"]["output"]
                    if event["type"] in ENDS:
                        return seen
    raise AssertionError("the server closed the socket before the prompt ended")
