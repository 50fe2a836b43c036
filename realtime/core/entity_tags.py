"""The entity tag of a response that shows what channels have brought so far."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.core.positions import Position


def entity_tag(positions: Mapping[str, Position], vary: Iterable[str] = ()) -> str:
    """Return a weak entity tag (RFC 9110 §8.8.3) that changes with each publication.

    Weak, because it stands for the state that a response shows, not for its bytes.

    Args:
        positions: The positions of the channels, by channel.
        vary: What else the response depends on, such as its user. A hash covers it, so it cannot
            be read from the tag.
    """
    texts = [f"{channel} {at.epoch} {at.offset}" for channel, at in sorted(positions.items())]
    # The length before each text, so that no other list of texts is hashed as the same bytes.
    hashed = hashlib.sha256()
    for text in (str(len(texts)), *texts, *vary):
        raw = text.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:%b" % (len(raw), raw))
    return f'W/"{hashed.hexdigest()[:32]}"'
