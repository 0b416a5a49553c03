"""Writes the expectations again: `python -m tests.golden`. Read the difference before it is committed: what stands there
is what the tests take to be right."""

from tests.golden.crossing import EXPECTED, files

if __name__ == "__main__":
    known = set(EXPECTED.glob("*/*.txt"))
    for file, text in files():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        known.discard(file)
    for file in known:
        file.unlink()
