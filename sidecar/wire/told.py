"""What a meter learns of a translated answer: its neutral events are read, so that nothing is parsed twice."""

from collections.abc import Sequence

from msgspec.structs import replace

from sidecar.core.types import Usage
from sidecar.wire.meter import StreamMeter, reading_of
from sidecar.wire.neutral import (
    Delta,
    Done,
    Event,
    Failed,
    Media,
    Open,
    Problem,
    Refusal,
    Response,
    Start,
    Stopped,
    Text,
    Thinking,
    Told,
    ToolCall,
)
from sidecar.wire.reading import Piece, Reading, text_bytes


class Listener:
    """Turns the events of one stream into the meter's pieces: it knows which open parts are thoughts."""

    def __init__(self) -> None:
        self._thoughts: set[tuple[int, int]] = set()

    def pieces(self, events: Sequence[Event]) -> list[Piece]:
        """One piece for each event that says something."""
        return [piece for event in events if (piece := self._piece(event)) is not None]

    def _piece(self, event: Event) -> Piece | None:
        match event:
            case Delta():
                answer = (event.choice, event.index) not in self._thoughts
                return Piece(text_bytes=text_bytes(event.text), answer=answer and bool(event.text))
            case Open(part=part):
                if isinstance(part, Thinking):
                    self._thoughts.add((event.choice, event.index))
                drawn = isinstance(part, Media)  # billed by its own tokens: its size says nothing about them
                return Piece(
                    int(drawn), answer=drawn, called=isinstance(part, ToolCall), refused=isinstance(part, Refusal)
                )
            case Start():
                return Piece(completion_id=event.id or None, model=event.model or None, usage=_begun(event))
            case Stopped():
                return Piece(finish=event.stop, refused=event.stop == "refusal")
            case Told():
                return Piece(usage=event.usage)
            case Done():
                return Piece(terminal=True)
            case Failed():
                return Piece(error=event.problem.code or event.problem.kind)
            case _:
                return None


def _begun(start: Start) -> Usage | None:
    """The usage at the start of a stream: of the output it knows only the beginning. Gemini's may be a whole answer's."""
    usage = start.usage
    return usage if usage is None or start.format == "generate" else replace(usage, output_tokens=None)


def piece_of_whole(answer: Response, problem: Problem | None = None) -> Piece:
    """A whole answer as one piece; `problem`: it failed."""
    piece = Piece(completion_id=answer.id or None, model=answer.model or None, usage=answer.usage, terminal=True)
    if problem is not None:
        piece.error = problem.code or problem.kind
    for choice in answer.choices:
        piece.finish = choice.stop or piece.finish
        piece.refused = piece.refused or choice.stop == "refusal"
        for part in choice.parts:
            match part:
                case Text() | Refusal():
                    piece.refused = piece.refused or isinstance(part, Refusal)
                    _count(piece, part.text)
                case ToolCall():
                    piece.called = True
                    _count(piece, part.arguments)
                case Thinking():
                    piece.text_bytes += text_bytes(part.text)
                case Media():
                    piece.text_bytes += 1
                    piece.answer = True
                case _:
                    pass
    return piece


def _count(piece: Piece, text: str) -> None:
    piece.text_bytes += text_bytes(text)
    piece.answer = piece.answer or bool(text)


class ToldMeter(StreamMeter):
    """A meter that is given pieces instead of bytes; of a whole answer there is one, and it has no token times."""

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(lambda _name, _data: None, max_event_bytes)
        self._whole: Piece | None = None

    def feed(self, data: bytes, t_s: float) -> None:
        """Bytes tell it nothing."""

    def take(self, pieces: Sequence[Piece], t_s: float, *, streamed: bool) -> None:
        """What one read said."""
        if not streamed:
            self._whole = pieces[-1]
            return
        if self._ttfe_s is None:
            self._ttfe_s = t_s
        self._events += len(pieces)
        tokens = self._token_events
        for piece in pieces:
            self._take(piece, t_s)
        if self._token_events != tokens:
            self._gap(t_s)

    def finish(self) -> Reading:
        """What was seen until now."""
        return super().finish() if self._whole is None else reading_of(self._whole)
