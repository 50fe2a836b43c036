"""Frames against the sans-I/O parser of `websockets`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from realtime.protocols.centrifugo import text_frame


def read_by_a_client(data: bytes) -> list:
    client = ClientProtocol(parse_uri("ws://a.example/"))
    client.state = OPEN
    client.reader.feed_data(b"")
    client.parser = client.parse()
    client.receive_data(data)
    return client.events_received()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_every_length_is_read_back(size):
    [frame] = read_by_a_client(text_frame(b"x" * size))
    assert (frame.opcode, frame.fin, len(frame.data)) == (Opcode.TEXT, True, size)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_frames_follow_each_other(texts):
    frames = read_by_a_client(b"".join(text_frame(text.encode()) for text in texts))
    assert [frame.data.decode() for frame in frames] == texts
