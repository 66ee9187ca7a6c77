"""What the ledger keeps: messages whose verdict their client may not know."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa
from attrs import define

from relay.spool.database import insert
from relay.spool.deposits import text
from relay.spool.schema import memories
from relay.spool.values import Remembered
from relay.spool.writer import Transaction
from relay.wire import dump

_fingerprint: sa.BindParameter[bytes] = sa.bindparam("wanted")
_recall = sa.select(memories).where(memories.c.fingerprint == _fingerprint, memories.c.expires > sa.bindparam("now"))
_forget = sa.delete(memories).where(memories.c.fingerprint == _fingerprint)
_any = sa.select(memories.c.fingerprint).limit(1)


@define
class Memories:
    """Remembers and forgets.

    :param keep: how long, in seconds.
    :ivar any: whether something may be remembered; only ``any`` of a database of our own is never out of date.
    """

    _keep: float
    any: bool = True

    def look(self, transaction: Transaction, asked: Sequence[None] = ()) -> list[bool]:
        """Whether anything is remembered, expired or not."""
        self.any = transaction.connection.execute(_any).first() is not None
        return [self.any] * len(asked)

    def remember(self, transaction: Transaction, entries: Sequence[Remembered]) -> list[None]:
        """Keep *entries*; of two with the same fingerprint the last."""
        # Before the commit: who asks meanwhile had better look.
        self.any = True
        latest = {entry.fingerprint: entry for entry in entries}
        transaction.connection.execute(_forget, [{"wanted": fingerprint} for fingerprint in latest])
        expires = transaction.now + self._keep
        rows = [(each.fingerprint, text(each.id), dump(each.recipients), expires) for each in latest.values()]
        insert(transaction.connection, memories, rows)
        return [None] * len(entries)

    def claim(self, transaction: Transaction, entries: Sequence[Remembered]) -> list[Remembered]:
        """The entry that has the fingerprint of each of *entries* already, or the one that is kept from now on."""
        claimed = []
        for entry in entries:
            found = self._recall(transaction, entry.fingerprint)
            if found is None:
                self.remember(transaction, [entry])
            claimed.append(found or entry)
        return claimed

    def recall(self, transaction: Transaction, fingerprints: Sequence[bytes]) -> list[Remembered | None]:
        """The entry of each fingerprint, None without one or when it is too old."""
        return [self._recall(transaction, each) for each in fingerprints]

    def _recall(self, transaction: Transaction, fingerprint: bytes) -> Remembered | None:
        found = transaction.connection.execute(_recall, {"wanted": fingerprint, "now": transaction.now}).one_or_none()
        if found is None:
            return None
        return Remembered(fingerprint, found.id, tuple(json.loads(bytes(found.recipients))))

    def forget(self, transaction: Transaction, fingerprints: Sequence[bytes]) -> list[None]:
        """Drop the entries."""
        transaction.connection.execute(_forget, [{"wanted": fingerprint} for fingerprint in fingerprints])
        self.look(transaction)
        return [None] * len(fingerprints)
