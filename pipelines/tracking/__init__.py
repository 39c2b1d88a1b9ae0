"""All of MLflow: where runs go, what is logged, how a model is registered and found.

Tracking is an edge. An outage during a run is counted, kept in a local file and replayed at the end, and never
kills the run; only registration fails loudly.
"""

from pipelines.tracking.client import (
    INHERITED,
    URI_VARIABLE,
    VIEW_KEY,
    aim,
    bound_waiting,
    open_tracking,
    resolve_uri,
    runs_link,
    runs_view,
    ui_command,
)
from pipelines.tracking.metric_log import (
    SECONDS_BETWEEN_FLUSHES,
    SENDING_SUFFIX,
    Tracker,
    git_commit,
    metric_key,
    param_text,
    run_params,
    run_tags,
    start_run,
    try_to_log,
)
from pipelines.tracking.models import (
    CHALLENGER,
    CHAMPION,
    describe_version,
    fetch_info,
    fetch_model,
    find_version,
    register,
    run_of_version,
    signature,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "INHERITED",
    "SECONDS_BETWEEN_FLUSHES",
    "SENDING_SUFFIX",
    "URI_VARIABLE",
    "VIEW_KEY",
    "Tracker",
    "aim",
    "bound_waiting",
    "describe_version",
    "fetch_info",
    "fetch_model",
    "find_version",
    "git_commit",
    "metric_key",
    "open_tracking",
    "param_text",
    "register",
    "resolve_uri",
    "run_of_version",
    "run_params",
    "run_tags",
    "runs_link",
    "runs_view",
    "signature",
    "start_run",
    "try_to_log",
    "ui_command",
]
