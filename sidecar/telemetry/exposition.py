"""Histograms as text, in the format that Prometheus and OpenMetrics share.

prometheus_client takes 10 us a line, so two hundred models would hold the event loop for a third of a second at each
scrape. Here a whole histogram is one `%` on a template: 5 us. Everything else goes through prometheus_client.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from sidecar.telemetry.catalogue import BY_NAME, PREFIX

Row: TypeAlias = tuple[tuple[str, ...], list[int], float]  # label values, cumulative counts (last: all), sum

_LABELS = "\x00"  # stands for the labels in a template: no label value of ours can hold it (see `_escaped`)


@lru_cache(maxsize=64)
def _template(name: str, edges: tuple[float, ...]) -> str:
    texts = [*(repr(float(edge)) for edge in edges), "+Inf"]
    lines = [f'{name}_bucket{{{_LABELS},le="{text}"}} %d.0\n' for text in texts]
    return "".join(lines) + f"{name}_count{{{_LABELS}}} %d.0\n{name}_sum{{{_LABELS}}} %r\n"


def histogram_text(name: str, edges: Sequence[float], rows: Iterable[Row]) -> str:
    """The family's HELP and TYPE lines and every row's buckets, count and sum. `name` is the catalogue's."""
    metric = BY_NAME[name]
    full = PREFIX + name
    template = _template(full, tuple(edges))
    parts = [f"# HELP {full} {_escaped(metric.help)}\n# TYPE {full} histogram\n"]
    for values, cumulative, total in rows:
        pairs = zip(metric.labels, values, strict=True)
        labels = ",".join([f'{label}="{_escaped(value)}"' for label, value in pairs])
        parts.append((template % (*cumulative, cumulative[-1], float(total))).replace(_LABELS, labels))
    return "".join(parts)


@lru_cache(maxsize=4096)  # the same few hundred label values at every scrape
def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"').replace(_LABELS, "")
