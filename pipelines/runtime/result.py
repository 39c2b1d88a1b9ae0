"""Records of a job's result line. A field that was never set has no key in the line."""

from typing import Any, Self

from mgray.record import Record


class JobResult(Record):
    """Base of the result of each job."""

    def more(self, **fields: Any) -> Self:
        """The same with these fields set too."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | fields)

    def line(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        return self.model_dump(exclude_unset=True)


class VersionLabel(JobResult):
    """A registered version."""

    name: str
    version: str


class DatasetLabel(JobResult):
    """A dataset version."""

    path: str | None  # None: of a dry run, which leaves none
    fingerprint: str
    reused: bool = False  # it was there already


class ComparedMetrics(JobResult):
    """Metrics of both models, on the same queries."""

    champion: dict[str, float] | None  # None: there is no champion
    challenger: dict[str, float]
