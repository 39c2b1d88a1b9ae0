"""Commands and URIs as they may be shown: without passwords."""

import re
import sys


def shown_uri(uri: str) -> str:
    """The URI without the password that a database's may hold: what logs, params and the result line may show."""
    return re.sub(r"(://[^:/@\s]+):[^@\s]*@", r"\1:***@", uri)


def command_line() -> str:
    return " ".join(["python", *map(shown_uri, sys.argv)])
