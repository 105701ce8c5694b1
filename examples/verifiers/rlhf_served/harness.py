"""Ask the model for one message, in this process: no program is started, and nothing is installed."""

from __future__ import annotations

import openai
import verifiers.v1 as vf
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.errors import MODEL_TRANSPORT_ERROR_EXIT_CODE

__all__ = ["PlainHarness", "PlainHarnessConfig"]


class PlainHarnessConfig(vf.HarnessConfig):
    """Hold the options that every harness has."""


class PlainHarness(vf.Harness[PlainHarnessConfig]):
    """Ask once per turn, without tools.

    verifiers' own `null` harness does the same in a `uv` script, which starts a process per turn and installs its needs
    before the first; `--env.player.harness.id null` takes it.
    """

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Send the conversation to the model. verifiers records the answer on its way."""
        system, prompt = self.resolve_prompt(data)
        said = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*map(message_to_wire, prompt or [])]
        )
        messages = [{"role": "system", "content": system}, *said] if system else said
        http = openai.DefaultAsyncHttpxClient(trust_env=False)  # the endpoint is in this process
        async with openai.AsyncOpenAI(base_url=endpoint, api_key=secret, http_client=http) as client:
            try:
                await client.chat.completions.create(model=ctx.model, messages=messages)
            except openai.APIConnectionError as error:
                return vf.ProgramResult(MODEL_TRANSPORT_ERROR_EXIT_CODE, "", str(error))
            except openai.APIError as error:
                return vf.ProgramResult(1, "", str(error))
        return vf.ProgramResult(0, "", "")
