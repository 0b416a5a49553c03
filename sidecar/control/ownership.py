"""Whose the engine state in the database is, and whether ours may be written over it.

| Whose   | since                                                | ours is stored | it may be taken over             |
| ------- | ---------------------------------------------------- | -------------- | -------------------------------- |
| OURS    | there was none, or we have read it                   | if not unseen  | if unseen, and we hold the lock  |
| FOREIGN | another process had the file, or a reading broke off | no             | once we hold the lock            |
| UNREAD  | it could not be read; `why` says what was wrong      | no             | once we hold the lock            |
| COMING  | it is being read again, to be ours                   | no             | no: that is under way            |

    OURS ---- held ----> FOREIGN -- begin --> COMING -- end ------> OURS
    OURS, COMING -- unread --> UNREAD -- begin --> COMING -- give_up --> FOREIGN

Two facts stand beside it, as they may hold in any row. A state is *unseen* that appeared behind a file which had none: the
writer's thread finds it and has to heed it with its next commit, so it is the writer's fact, and an argument here. And what
is stored may be such that it must not be replaced, whosever it is: then we are *barred* until it is read again.
"""

from enum import Enum, auto


class Whose(Enum):
    """See the head of this module."""

    OURS = auto()
    FOREIGN = auto()
    UNREAD = auto()
    COMING = auto()


class Ownership:
    """Of one stored state. Its verbs say what happened; they raise nothing."""

    def __init__(self) -> None:
        self.whose = Whose.OURS
        self.why = ""  # it could not be read when that was tried last; "" where it could
        self._barred = False

    def held(self) -> None:
        """Another process writes the file: it stores there what we do not know, or cannot even read."""
        if self.whose is Whose.OURS:
            self.whose = Whose.FOREIGN

    def unread(self, why: str) -> bool:
        """It cannot be read now; whether that is news."""
        told, self.why, self.whose = bool(self.why), why, Whose.UNREAD
        return not told

    def read(self) -> None:
        """Nothing stands against reading it."""
        self.why = ""

    def bar(self) -> None:
        """It must not be written over: it is sealed, or a newer program's that is not kept elsewhere."""
        self._barred = True

    def begin(self) -> None:
        """It is read again, to be ours, and may be another one than before; one `end`, `unread` or `give_up` follows."""
        self.whose, self._barred = Whose.COMING, False

    def end(self) -> None:
        """What is stored is known here."""
        self.whose = Whose.OURS

    def give_up(self) -> None:
        """After `end` and `unread` nothing; else a fault of ours broke the reading off, and it is tried again."""
        if self.whose is Whose.COMING:
            self.whose, self.why = Whose.FOREIGN, ""

    def may_store(self, *, unseen: bool) -> bool:
        """Whether what we have learnt may be written over it."""
        return self.whose is Whose.OURS and not (self._barred or unseen)

    def may_take_over(self, *, holds: bool, unseen: bool) -> bool:
        """Whether it is to be read again now. `holds`: we have the lock, so nobody else writes it."""
        waits = unseen if self.whose is Whose.OURS else self.whose is not Whose.COMING
        return holds and waits
