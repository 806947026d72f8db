"""A request that is refused: a status, what is wrong, and what to do."""

from collections.abc import Sequence


class RequestError(Exception):
    """Answered as {"error", "remedy", "problems"} with a status.

    Attributes:
        status: of HTTP.
        retry_after_s: where it may go better then.
    """

    def __init__(
        self, status: int, error: str, remedy: str, problems: Sequence[str] = (), retry_after_s: int | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.remedy = status, error, remedy
        self.problems = list(problems)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer; a body that was not read to its end makes the connection useless."""
        more = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return ({"Connection": "close"} if self.status in (400, 408, 413, 503) else {}) | more

    @property
    def content(self) -> dict[str, object]:
        """Of the answer, as JSON."""
        return {"error": self.error, "remedy": self.remedy, "problems": self.problems}
