"""One integration, some calls of LiteLLM: what ``instructions.py`` counts or times.

    VENV/bin/python completions.py NAME N {counted,timed}

LiteLLM reports a call's outcome on other threads and from a queue, after the call returned: a call
counts until that is done.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf

import canned
import counting
import peers


class Completions(counting.Counted):
    target, operations, warm = "litellm", ("completion", "acompletion"), 10

    def load(self):
        import litellm

        litellm.suppress_debug_info = True
        litellm.telemetry = False
        self.litellm = litellm
        self.given = {
            "model": "gpt-4o-mini",
            "messages": [
                {"role": "system", "content": canned.SYSTEM},
                {"role": "user", "content": canned.PROMPT},
            ],
            "api_key": "x",
            "mock_response": canned.REPLY,
        }

    def ready(self):
        from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
        from litellm.litellm_core_utils.thread_pool_executor import executor

        self.reports, submit = [], executor.submit

        def noted(*args, **kwargs):
            future = submit(*args, **kwargs)
            self.reports.append(future)
            return future

        executor.submit = noted
        self.worker, self.loop = GLOBAL_LOGGING_WORKER, asyncio.new_event_loop()
        self.tracer = self.switch.tracer()
        call = lambda: self.litellm.completion(**self.given)  # noqa: E731
        self.call = self.setup.around(call) if self.setup.around else call

    def operate(self, given):
        if self.operation == "completion":
            self.call()
        else:
            self.loop.run_until_complete(self.acall())
        # An integration may have them run at once instead.
        cf.wait([report for report in self.reports if isinstance(report, cf.Future)])
        self.reports.clear()

    async def acall(self):
        if self.setup.around:
            span = self.tracer.start_span("chat canned-1", attributes=peers.TEN)
            await self.litellm.acompletion(**self.given)
            span.set_attributes(peers.TEN_END)
            span.end()
        else:
            await self.litellm.acompletion(**self.given)
        # Tasks put the report into the queue, and the queue's worker makes tasks of it.
        await self.others_done()
        await self.worker.flush()
        await self.others_done()

    async def others_done(self):
        others = asyncio.all_tasks() - {asyncio.current_task(), self.worker._worker_task}
        if others:
            await asyncio.wait(others)


if __name__ == "__main__":
    counting.main(Completions)
