"""Twenty small tasks whose answers a rule can check: the quality feedback of the tests with real models."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """`right`: one of these words in the first line of the answer makes it right, unless a word of `wrong` is there."""

    prompt: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()


def _number(sum_of: str, result: int) -> Task:
    return Task(f"What is {sum_of}? Answer with the number only.", (str(result),))


def _capital(country: str, city: str) -> Task:
    return Task(f"What is the capital of {country}? Answer with the city name only.", (city,))


def _yes(question: str) -> Task:
    return Task(f"{question} Answer yes or no.", ("yes",), ("no",))


TASKS = (
    _number("3 + 5", 8),
    _number("10 + 4", 14),
    _number("9 - 2", 7),
    _number("5 * 4", 20),
    _capital("Italy", "rome"),
    _capital("Spain", "madrid"),
    _capital("Austria", "vienna"),
    _capital("Portugal", "lisbon"),
    _capital("Sweden", "stockholm"),
    _yes("Is a cat an animal?"),
    _yes("Is the sky above the ground?"),
    _yes("Can birds fly?"),
    Task("Is a stone alive? Answer yes or no.", ("no",), ("yes",)),
    Task("Is snow hot? Answer yes or no.", ("no",), ("yes",)),
    Task('What is the opposite of "left"? Answer with one word.', ("right",)),
    Task('What is the opposite of "long"? Answer with one word.', ("short",)),
    Task("Repeat this text and nothing else: lemon", ("lemon",)),
    Task("Repeat this text and nothing else: tiger-9", ("tiger-9",)),
    Task('Text: "The parcel weighs 25 kg." What is the weight in the text? Answer with it only.', ("25",)),
    Task("What number comes next: 10, 11, 12? Answer with the number only.", ("13",)),
)


def score(task: Task, answer: str) -> float:
    """1.0 for a right answer, else 0.0. Only the first line with text counts."""
    line = next((line for line in answer.lower().splitlines() if line.strip()), "")
    words = {word.strip(".,!?:;\"'*") for word in line.split()}
    return float(any(word in words for word in task.right) and not any(word in words for word in task.wrong))
