"""The base of every record that is written to or read from JSON."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Named, typed, immutable fields. A key that a record does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
