"""What the lab and its binaries raise."""

from __future__ import annotations


class LabError(Exception):
    """Something about this machine or the lab that a person must mend; the message says what to do."""
