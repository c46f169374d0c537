"""Turn Hub and network errors into one actionable message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from framefold.errors import FramefoldError, HubError
from framefold.messages import one_line

from .hub_session import TRANSIENT, GaveUpError, limited_session, retry_after

TIMEOUT = 60  # seconds without a byte, see :class:`~framefold.adapters.pretrained.hub_session.RequestLimits`


@contextmanager
def hub_request(repository: str, revision: str | None = None, doing: str = "load") -> Iterator[None]:
    """Limit the time that requests to the Hub may take, and explain their errors.

    Args:
        repository: ``user/name``, for messages.
        revision: branch, tag or commit, for messages.
        doing: "load" or "push", for messages.

    Raises:
        HubError: a request failed.
    """
    try:
        with limited_session(TIMEOUT):
            yield
    except FramefoldError:
        raise
    except Exception as error:  # a network may raise anything
        raise HubError(explain_hub_error(error, repository, revision, doing)) from error


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not answer, or not about the repository, so that the cached copy may be used."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    error = root_cause(error)
    return isinstance(error, OfflineModeIsEnabled) or _is_connection_error(error) or _status(error) in TRANSIENT


def explain_hub_error(error: Exception, repository: str, revision: str | None, doing: str) -> str:
    """Return one line that states what failed and what to do about it."""
    from huggingface_hub import constants, errors

    error = root_cause(error)
    hub, status = constants.ENDPOINT, _status(error)
    at = f"{repository}@{revision}" if revision else repository
    login = "log in with 'hf auth login' or set HF_TOKEN"
    if isinstance(error, errors.HFValidationError):
        return f"{repository!r} is not a valid repository name: {one_line(error)}"
    if isinstance(error, errors.GatedRepoError):
        return f"{at} is gated: request access at {hub}/{repository}, then {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}: {hub}/{repository}/refs lists its branches and tags"
    if isinstance(error, errors.RepositoryNotFoundError) and doing == "load":
        return f"{repository} does not exist at {hub}, or it is private: check its name, or {login}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return f"{at} is not completely in the cache, and there is no connection to {hub}: load it once online"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{at} lacks a file that the Hub lists: {one_line(error)}"
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError | errors.RepositoryNotFoundError):
        return f"{hub} does not accept your login for {repository}: {login}, with a token that has write access"
    if status == 403:
        return f"your token may not {doing} {repository}: create one that may at {hub}/settings/tokens, then {login}"
    if status in (409, 412):
        return f"{repository} was changed by another push in the meantime: try again"
    if status == 413:
        return f"{hub} does not accept files of that size: {one_line(error)}"
    if status is not None and (status >= 500 or status in TRANSIENT):
        seconds = retry_after(getattr(error, "response", None))
        when = f"in {seconds:g} seconds" if seconds else "later"
        return f"{hub} is busy or out of order (status {status}): try again {when}; {_unchanged(doing)}"
    if _is_connection_error(error) or "Consistency check" in str(error):
        return f"the connection to {hub} was lost ({type(error).__name__}): try again; {_unchanged(doing)}"
    return f"{doing}ing {at} failed: {type(error).__name__}: {one_line(error)}"


def _unchanged(doing: str) -> str:
    return "nothing was published" if doing == "push" else "no incomplete file was kept"


def root_cause(error: Exception) -> Any:
    """Return the cause of an error without information: the client wraps failed uploads in RuntimeErrors."""
    cause: Any = error
    while type(cause) in (RuntimeError, GaveUpError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause


def _is_connection_error(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2")


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
