"""What a cache would save, for people: a table for a terminal, and whether it is worth it."""

from tabulate import tabulate

from benchmarks.capacity.cache import IN_FLIGHT, Forecast, Time

NEARLY_ALL = 0.95  # of what the largest cache answers


def cache_table(found: Forecast) -> str:
    """A row for each size, what the figures mean, and a conclusion."""
    heads = ["entries", "memory, MB", "texts answered", "share"]
    rows = [["none", "", "0", "0.0%", *_time(found.time(None))]]
    for size in found.sizes:
        name = f"{size.entries:,}{' (in flight together)' if size.entries == IN_FLIGHT else ''}"
        answered = [f"{size.found:,}", f"{size.found / found.texts:.1%}"]
        rows.append([name, f"{size.bytes / 1e6:.1f}", *answered, *_time(found.time(size))])
    if found.costs:
        heads += ["ms a text", "texts/s at most", "CPU s a million texts"]
    table = tabulate(rows, heads, disable_numparse=True, stralign="right")
    return "\n\n".join([table, "\n".join(f"- {line}" for line in _notes(found)), conclusion(found)])


def _time(text: Time | None) -> list[str]:
    """Nothing where nothing was measured."""
    return [f"{text.ms:.3f}", f"{1000 / text.ms:,.0f}", f"{1000 * text.cpu_ms:,.0f}"] if text else []


def _notes(found: Forecast) -> list[str]:
    notes = [
        f"{found.texts:,} texts, of which {found.most:,} came before: no cache answers more",
        f"each text costs {found.key_us:.1f} us for its key and place, whether it came before or not",
        "this is one server that gets all texts in this order; of several, each has a cache of its own",
    ]
    if costs := found.costs:
        notes += [
            f"measured in batches of {IN_FLIGHT}: the model answers a text in {costs.asked.ms:.3f} ms, the "
            f"cache in {costs.answered.ms:.3f}",
            "HTTP is not included: a server answers fewer texts/s than this",
        ]
    return notes


def conclusion(found: Forecast) -> str:
    """In a sentence: the smallest size that answers nearly all that any does, or to leave it off."""
    off = "Leave the cache off: "
    if not found.most:
        return f"{off}no text came twice."
    most = max(size.found for size in found.sizes)
    if not most:
        return f"{off}texts that came before came too long ago for any of these sizes."
    size = next(size for size in found.sizes if size.found >= NEARLY_ALL * most)
    share = size.found / found.texts
    words = f"--cache {size.entries} would answer {share:.1%} of texts, in {size.bytes / 1e6:.1f} MB"
    before, after = found.time(None), found.time(size)
    if before is None or after is None:
        return f"{words}. Give --artifact to see what that saves."
    saved = 1 - after.ms / before.ms
    if saved <= 0:
        return f"{off}it would answer {share:.1%} of texts, and cost as much as that saves."
    return f"{words}, and save {saved:.0%} of the model's time."
