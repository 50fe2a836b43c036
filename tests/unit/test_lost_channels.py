"""Clients of channels that are lost with a part of the broker are told, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from realtime.core.callbacks import do_nothing
from realtime.core.namespaces import Namespace
from realtime.delivery.lost_channels import PATIENCE_SECONDS, LostChannels
from realtime.delivery.registry import Registry
from tests.support.eventually import eventually


class Scene:
    """Three channels of a node, and what was told of them."""

    def __init__(self) -> None:
        self.is_live = True
        self.told: list[tuple[str, bool]] = []
        registry: Registry[object] = Registry()
        self.channels = {name: registry.want(name, Namespace(), name, do_nothing) for name in "abc"}
        self.registry = registry
        self.lost = LostChannels(
            registry,  # type: ignore[arg-type]
            lambda channel, live: self.told.append((channel.name, live)),
            is_live=lambda: self.is_live,
        )

    def leave(self, name: str) -> None:
        channel = self.channels[name]
        channel.waiting.clear()
        self.registry.release(channel)


@pytest.fixture
async def scene():
    made = Scene()
    yield made
    made.lost.clear()


async def test_a_channel_that_returns_at_once_is_not_mentioned(scene):
    """A slot that moves is back within 25 ms; the gap says what was missed."""
    scene.lost.note_lost(["a", "b"], "moved")
    scene.lost.note_live(scene.channels["a"])
    await eventually(lambda: scene.told)
    assert scene.told == [("b", False)]
    assert len(scene.lost) == 1
    assert "b" in scene.lost


async def test_its_return_is_told(scene):
    scene.lost.note_lost(["a"], "away")
    await eventually(lambda: scene.told)
    scene.lost.note_live(scene.channels["c"])
    assert scene.told == [("a", False)]
    scene.lost.note_live(scene.channels["a"])
    assert scene.told == [("a", False), ("a", True)]
    assert len(scene.lost) == 0


async def test_each_is_told_after_its_own_time(scene):
    scene.lost.note_lost(["a"], "away")
    await asyncio.sleep(PATIENCE_SECONDS / 2)  # no condition to wait for: the second one is later
    scene.lost.note_lost(["a", "b"], "away")
    await eventually(lambda: len(scene.told) == 2)
    assert scene.told == [("a", False), ("b", False)]


async def test_while_the_node_is_not_live_nothing_is_told(scene):
    """The state of the node says it; when it is live again, what is lost is told at once."""
    scene.is_live = False
    scene.lost.note_lost(["a", "b"], "away")
    scene.lost._tell_overdue()
    scene.lost.note_live(scene.channels["b"])
    await asyncio.sleep(PATIENCE_SECONDS)  # the time after which it would be told
    assert scene.told == []
    scene.is_live = True
    scene.lost.tell_again()
    assert scene.told == [("a", False)]
    scene.lost.tell_again()
    assert scene.told == [("a", False)] * 2


async def test_a_channel_that_nobody_needs_any_more_is_forgotten(scene, caplog):
    caplog.set_level("INFO", "realtime")
    scene.lost.note_lost(["a", "b"], "away")
    await eventually(lambda: len(scene.told) == 2)
    scene.leave("a")
    scene.lost.forget_unneeded()
    assert len(scene.lost) == 1
    scene.leave("b")
    scene.lost.forget_unneeded()
    assert len(scene.lost) == 0
    said = [
        record.getMessage().rpartition(" after ")[0] or record.getMessage()
        for record in caplog.records
    ]
    assert said == ["lost channels: 2 (away)", "all channels are live"]


async def test_each_reason_is_logged_once_until_all_are_live(scene, caplog):
    caplog.set_level("WARNING", "realtime")
    for reason in ("away", "away", "refused"):
        scene.lost.note_lost(["a"], reason)
    await eventually(lambda: scene.told)
    scene.lost.note_lost(["b"], "away")
    await eventually(lambda: len(scene.told) == 2)
    assert [record.getMessage() for record in caplog.records] == [
        "lost channels: 1 (away)",
        "lost channels: 1 (refused)",
    ]
