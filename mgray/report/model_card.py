"""A model's card: what it was trained on, how good it is and for whom, what it is for, what it cannot do. Markdown."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from mgray.config import ResolvedTrainJobConfig
from mgray.data.inputs import COLUMN_OF, read_columns
from mgray.data.manifest import Manifest, short_key
from mgray.data.newest import POPULAR_SHARE
from mgray.eval.slices import HISTORY_LENGTH, ITEM_POPULARITY, SliceFigures
from mgray.report.report_data import MODEL
from mgray.serve.model_folder import SEEN_CAUTION, ModelInfo
from mgray.train.run_result import RankResult

MAX_CHARS = 4000  # MLflow's database holds 5,000; the rest is for the decision that follows the card
SLICE_TITLES = {HISTORY_LENGTH: "length of the history, events", ITEM_POPULARITY: "training events of the item"}


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)


def _trained_on(config: ResolvedTrainJobConfig, manifest: Manifest) -> str:
    split = manifest.split
    include_valid = config.train.include_valid
    trained = f"{manifest.train_events:,}"
    if include_valid:  # events on items that are in no training event are left out
        trained = f"up to {manifest.train_events + manifest.valid_events:,}"
    if split.kind == "random":
        cut = ", drawn at random" + (" (validation part included)" if include_valid else "")
    elif split.kind == "leave_one_out":
        cut = f", all but each user's {'last' if include_valid else 'last two'}"
    else:
        until = split.test_from if include_valid else split.valid_from
        assert until is not None, "a temporal split has cuts"
        cut = f", up to {_day(until)}"
    start = config.train.warm_start or "random weights"
    files = ", ".join(source.path for source in manifest.sources[:5])
    more = f" and {len(manifest.sources) - 5} more" if len(manifest.sources) > 5 else ""
    span = (
        f"from {_day(manifest.first_timestamp)} to {_day(manifest.last_timestamp)} UTC"
        if manifest.has_times
        else "without times, in the order of the log"
    )
    return (
        f"{manifest.rows['written']:,} events of {manifest.users:,} users {span} "
        f"(files: {files}{more}); of these {trained} train{cut}; "
        f"{manifest.items:,} items. Dataset `{short_key(manifest.fingerprint)}`. Started from {start}."
    )


def _reads(config: ResolvedTrainJobConfig, manifest: Manifest) -> str:
    given = {"time_gap": "time since the event before", "features": ", ".join(one.name for one in manifest.features)}
    named = [given.get(name, name.replace("_", " ")) for name in config.model.inputs]
    if "times" in read_columns(config.model) - {COLUMN_OF[name] for name in config.model.inputs}:
        named.append("times of the events")
    if config.model.outputs != "next_item" and "rating" not in config.model.inputs:
        named.append("rating")
    return f"{', '.join(['item', *named])}, nothing else"


def model_card(
    config: ResolvedTrainJobConfig,
    info: ModelInfo,
    manifest: Manifest,
    trained: RankResult,
    baselines: Mapping[str, Mapping[str, float]],
) -> str:
    """Write the card, at most MAX_CHARS long. trained: rank 0's result; baselines: name -> metrics."""
    metrics = trained.metrics
    ndcg = f"ndcg@{config.evaluate.k}"
    systems = {MODEL: metrics, **baselines}
    quality = _table(
        ["", *metrics], [[name, *(f"{row.get(m, float('nan')):.4f}" for m in metrics)] for name, row in systems.items()]
    )
    slices = "\n\n".join(
        _table([SLICE_TITLES.get(kind, kind), "queries", ndcg], [_slice_row(row, ndcg) for row in rows])
        for kind, rows in trained.slices.items()
    )
    levels = ", ".join(str(granularity) for granularity in config.model.granularities)
    seen = "items the user already has are never recommended" if config.evaluate.remove_seen else "seen items stay in"
    caution = f"- {SEEN_CAUTION}.\n" if info.exclude_seen else ""
    members = "" if config.model.members == 1 else f" ({config.model.members} models, whose scores are averaged)"
    card = f"""Next-item model MG-DSC: granularities {levels}, width {config.model.width}{members}, \
{trained.parameters:,} parameters.{_memory(info)}

## Trained on
{_trained_on(config, manifest)}

## Quality
Test part, {trained.num_targets:,} targets, full catalogue; {seen}; ties count against the model.

{quality}

{slices}

## Intended use
Ranks the catalogue for a user by what they did: raw item ids, oldest first, in; raw item ids with scores out.

## Limits
- It can recommend the {manifest.items:,} items of its training part only; other items in a history are skipped.
- A user without any known item gets what was popular among the newest {POPULAR_SHARE:.0%} of the events.
- It reads at most the last {config.train.max_length:,} events, and of each {_reads(config, manifest)}.
- Scores rank items within one user; they are no probabilities and do not compare between users.
{caution}- Its figures hold for the period above; taste drifts, and retraining (jobs/retrain.py) says how far.
"""
    return card if len(card) <= MAX_CHARS else card.replace(slices, "By slice: see the run's report.html.")[:MAX_CHARS]


def _memory(info: ModelInfo) -> str:
    if info.memory is None:
        return ""
    return f" Beside what it has learned it looks up, under kernels of these ages: {info.memory.label}."


def _slice_row(row: SliceFigures, metric: str) -> list[str]:
    return [row.label, f"{row.num_targets:,}", f"{row.metrics[metric]:.4f}"]
