"""YAML as nodes with lines, and its limits."""

from sidecar.config.document import MAX_NODES, Node, Problems, nearest, quoted, read_document


def read(text: str) -> tuple[Node | None, list[str]]:
    problems = Problems("f.yaml")
    return read_document(text, problems), problems.told()


def test_nodes_know_line_and_path() -> None:
    """Keys of maps count by their own line, items of lists by theirs; text stays as written."""
    root, told = read("a:\n  b:\n    - x\n    - {on: 4.10}\n\"c\": 'null'\nd: ~\n")
    assert told == []
    assert root is not None
    deep = root.find("a", "b", 1, "on")
    assert (deep.path, deep.line, deep.text, deep.tag) == ("a.b[1].on", 4, "4.10", "float")
    assert root.find("a", "none", 7).path == "a"
    assert root.find("a", "b", 9).path == "a.b"
    assert (root.find("c").is_empty, root.find("c").text, root.find("d").is_empty) == (False, "null", True)


def test_bombs_and_loops_are_refused() -> None:
    """Aliases of aliases, structures that contain themselves, and deep nesting end with a message, soon."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for last, name in zip("abcdef", "bcdefg", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{last}'] * 10)}]\n"
    for text in (bomb, "a: &a [*a]", "[" * 40 + "]" * 40):
        told = read(text)[1]
        assert any("is too large, too deep, or contains itself; " in line for line in told)
        assert len(told) < 5
    assert read("[" * 5000)[1] == ["f.yaml:1: (file): is nested too deeply; use at most 30 levels"]
    assert MAX_NODES > 10_000


def test_junk_is_not_read_to_its_end() -> None:
    """A mebibyte of it would hold a thread for a quarter of a minute; what follows the limit is not even looked at."""
    junk = "".join(f"k{line}: v\n" for line in range(1, MAX_NODES + 2))
    assert read(junk + "}{")[1] == [f"f.yaml:{MAX_NODES}: (file): has more than 50,000 values; split it by service"]


def test_aliases_are_fine() -> None:
    """One's own anchor may be used again."""
    root, told = read("a: &x {k: 1}\nb: *x\n")
    assert told == []
    assert root is not None
    assert root.find("b", "k").path == "b.k"


def test_odd_keys_are_shown_safely() -> None:
    """A key with control characters cannot break a message into two lines."""
    assert read('"a\\nb": 1\n"a\\nb": 2')[1] == [
        "f.yaml:2: 'a\\nb': is written twice (first in line 1); keep one of the two"
    ]


def test_advice() -> None:
    """The nearest name, or all names when they are few, or nothing to offer."""
    assert nearest("modle", ["model", "route"]) == "did you mean 'model'?"
    assert nearest("zzz", ["b", "a"]) == "use one of: a, b"
    assert nearest("zzz", []) == "remove it"
    assert nearest("zzz", map(str, range(30))) == "see the docs for the names there are"
    assert quoted("x" * 200) == repr("x" * 77 + "...")
    assert quoted("http://u:p@h/") == "the value"
