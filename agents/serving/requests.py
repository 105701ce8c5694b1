"""Check requests for completions: the fields of OpenAI's API that the gateway passes on. Others are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = ["MOST_CHOICES", "ChatRequest", "CompletionRequest", "Feedback", "FeedbackStored", "Request", "is_text"]

SEEDS = 2**63  # torch takes 64 bits
MOST_CHOICES = 128  # completions of one request


def is_text(text: str) -> bool:
    """Return whether a text has a UTF-8: JSON can hold halves of surrogate pairs, which have none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(text: str) -> str:
    if not is_text(text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


Text = Annotated[str, AfterValidator(_check_text)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Stop = Annotated[Text, Field(min_length=1, max_length=1000)]


class _Checked(BaseModel):
    """Refuse unknown fields, and texts where numbers are expected."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Checked):
    """Hold a part of a message."""

    type: Literal["text"]
    text: Text


class Message(_Checked):
    """Hold a message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: Text | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: Text | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a message of the role {self.role!r} needs content")
        return self


class StreamOptions(_Checked):
    """Say what a stream has beside the text."""

    include_usage: bool = False


class Request(_Checked):
    """Hold what both kinds of requests have."""

    model: Text
    max_tokens: int | None = Field(default=None, ge=1, le=10**6)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-SEEDS, lt=SEEDS)
    stop: Stop | list[Stop] | None = Field(default=None, max_length=1000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    user: Annotated[Text, Field(max_length=256)] | None = None
    metadata: dict[str, Text] | None = None
    store: bool | None = Field(default=None, description="Whether this completion may be kept for review.")

    @model_validator(mode="after")
    def _stops_are_few(self) -> Request:
        if isinstance(self.stop, list) and len(self.stop) > 4:
            raise ValueError(f"stop: at most 4 texts, got {len(self.stop)}")
        if self.logit_bias and not all(name.isdecimal() and abs(by) <= 100 for name, by in self.logit_bias.items()):
            raise ValueError("logit_bias: expected ids of tokens, and numbers from -100 to 100")
        return self

    @property
    def is_scored(self) -> bool:
        """Return whether log-probabilities are asked for."""
        raise NotImplementedError


class ChatRequest(Request):
    """Hold a request for a chat completion."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=10**6)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    @property
    def is_scored(self) -> bool:
        return bool(self.logprobs)


class CompletionRequest(Request):
    """Hold a request for a completion of a text."""

    prompt: Text | list[Text] | list[Token] | list[list[Token]]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    best_of: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    suffix: Text | None = None

    @model_validator(mode="after")
    def _choices_are_few(self) -> CompletionRequest:
        is_one = isinstance(self.prompt, str) or (bool(self.prompt) and isinstance(self.prompt[0], int))
        if not is_one and (wanted := len(self.prompt) * (self.n or 1)) > MOST_CHOICES:
            raise ValueError(f"prompt: at most {MOST_CHOICES} completions per request, got {wanted}")
        return self

    @property
    def is_scored(self) -> bool:
        return self.logprobs is not None


class Feedback(_Checked):
    """Hold what a user says of a completion."""

    id: Annotated[Text, Field(max_length=100)]
    choice: int = Field(default=0, ge=0, lt=MOST_CHOICES)
    thumbs: Literal["up", "down"] | None = None
    correction: Annotated[Text, Field(max_length=100_000)] | None = None
    comment: Annotated[Text, Field(max_length=10_000)] = ""
    user: Annotated[Text, Field(max_length=256)] | None = None
    consent: bool = Field(
        default=False, description="The user agrees that prompt, completion and feedback are kept and trained on."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if self.thumbs is None and self.correction is None:
            raise ValueError("neither thumbs nor a correction: give one of them")
        if self.correction is not None and not self.correction.strip():
            raise ValueError("correction: it is blank; write the better completion")
        if not self.consent:
            raise ValueError(
                "consent: without it nothing is kept; give true if the user agrees that prompt, completion and "
                "feedback are kept and trained on"
            )
        return self

    def answers(self) -> dict[str, dict[str, Any]]:
        """Return the answers by their kinds, as the feedback store has them."""
        thumbs = {} if self.thumbs is None else {"thumbs": {"up": self.thumbs == "up"}}
        return thumbs if self.correction is None else {**thumbs, "correction": {"text": self.correction}}


class FeedbackStored(BaseModel):
    """Say what is stored: the kinds of feedback, whose name they stand under, and which policy wrote the completion."""

    id: str
    object: Literal["feedback"] = "feedback"
    stored: list[str]
    annotator: str
    policy: str
