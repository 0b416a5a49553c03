"""Whose the stored state is: each row of the table, each way from one to another, and what stands beside it."""

from collections.abc import Callable

import pytest

from sidecar.control.ownership import Ownership, Whose

Told = Callable[[Ownership], object]


def held(it: Ownership) -> None:
    it.held()


def unread(it: Ownership) -> None:
    it.unread("the disk is away")


def begin(it: Ownership) -> None:
    it.begin()


def end(it: Ownership) -> None:
    it.end()


def give_up(it: Ownership) -> None:
    it.give_up()


def after(*told: Told) -> Ownership:
    made = Ownership()
    for tell in told:
        tell(made)
    return made


@pytest.mark.parametrize(
    ("told", "whose", "stores", "taken"),
    [
        ((), Whose.OURS, True, False),
        ((held,), Whose.FOREIGN, False, True),
        ((unread,), Whose.UNREAD, False, True),
        ((unread, held), Whose.UNREAD, False, True),
        ((begin,), Whose.COMING, False, False),
        ((held, begin), Whose.COMING, False, False),
        ((held, begin, end), Whose.OURS, True, False),
        ((held, begin, end, give_up), Whose.OURS, True, False),
        ((held, begin, unread), Whose.UNREAD, False, True),
        ((held, begin, unread, give_up), Whose.UNREAD, False, True),
        ((held, begin, give_up), Whose.FOREIGN, False, True),
        ((unread, begin, end), Whose.OURS, True, False),
    ],
)
def test_the_table(told: tuple[Told, ...], whose: Whose, stores: bool, taken: bool) -> None:
    """Ours is stored where it is ours; it is taken over where it is not, and nobody does so already."""
    it = after(*told)
    assert it.whose is whose
    assert it.may_store(unseen=False) is stores
    assert it.may_take_over(holds=True, unseen=False) is taken


@pytest.mark.parametrize("told", [(), (held,), (unread,), (held, begin)])
def test_without_the_lock_nothing_is_taken_over(told: tuple[Told, ...]) -> None:
    assert not after(*told).may_take_over(holds=False, unseen=True)


@pytest.mark.parametrize(("told", "taken"), [((), True), ((held,), True), ((unread,), True), ((begin,), False)])
def test_a_state_that_appeared_is_nobodys_to_write_over(told: tuple[Told, ...], taken: bool) -> None:
    """Whosever it was: it is read first, by one."""
    it = after(*told)
    assert not it.may_store(unseen=True)
    assert it.may_take_over(holds=True, unseen=True) is taken


@pytest.mark.parametrize("told", [(), (held,), (unread,)])
def test_who_is_barred_stays_so_until_it_is_read_again(told: tuple[Told, ...]) -> None:
    """Another process may have written another one since, or its key has come; the new reading may bar again."""
    it = Ownership()
    it.bar()
    for tell in told:
        tell(it)
    assert not it.may_store(unseen=False)
    assert it.may_take_over(holds=True, unseen=False) is after(*told).may_take_over(holds=True, unseen=False)
    it.begin()
    it.bar()
    it.end()
    assert not it.may_store(unseen=False)
    it.held()
    it.begin()
    it.end()
    assert it.may_store(unseen=False)


def test_why_it_cannot_be_read_is_news_once() -> None:
    """It stands while it is tried again, with the reason of the last attempt, and goes when it could be read."""
    it = Ownership()
    assert it.unread("one")
    it.begin()
    assert it.why == "one"
    assert not it.unread("two")
    assert it.why == "two"
    it.begin()
    it.read()
    assert it.why == ""
    it.end()
    assert it.unread("three")


def test_a_reading_that_broke_off_gives_no_reason() -> None:
    """It was a fault of ours, which is told elsewhere."""
    it = after(unread, begin, give_up)
    assert it.why == ""
    assert it.unread("again"), "it is news then"
