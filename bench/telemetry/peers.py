"""One entry per tracing integration: which venv it lives in, what it can trace,
and how it is switched on as its own documentation says.

All OTel-based peers get the same TracerProvider (ours) with one switchable
processor, so that exporter cost is identical and only the integration differs.
Peers that insist on owning their processor get a switchable *exporter* instead.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import tempfile
import time

TEN = {  # the floor's ten attributes: five at start, five at end
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "canned",
    "gen_ai.request.model": "canned-1",
    "gen_ai.request.temperature": 0.2,
    "gen_ai.request.max_tokens": 256,
}
AGENT = {**TEN, "gen_ai.operation.name": "invoke_agent"}
TOOL = {**TEN, "gen_ai.operation.name": "execute_tool"}
TEN_END = {
    "gen_ai.response.model": "canned-1",
    "gen_ai.response.id": "resp-1",
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 256,
    "gen_ai.usage.output_tokens": 200,
}


def is_llm(name, attributes):
    """Whether a span is of a model call, in any of their vocabularies."""
    a = attributes or {}
    return (
        a.get("openinference.span.kind") == "LLM"
        or a.get("gen_ai.operation.name") == "chat"
        or a.get("langsmith.span.kind") == "llm"
        or a.get("langfuse.observation.type") == "generation"
        or str(a.get("mlflow.spanType")).strip('"') in ("CHAT_MODEL", "LLM")
        or name.endswith((".llm", ".llm_call"))
        or name == "litellm_request"
        or name.startswith("chat ")
    )


# ------------------------------------------------------------ export switch
class Switch:
    """Holds the three export paths and flips between them by name."""

    def __init__(self, sink_port: int):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import (
            BatchSpanProcessor,
            SimpleSpanProcessor,
            SpanExporter,
            SpanExportResult,
        )
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        sw = self
        self._start, self._end, self._exp = itertools.count(), itertools.count(), itertools.count()
        self.n_started = self.n_ended = self.n_exported = 0

        class Noop(SpanExporter):
            def export(self, spans):
                for _ in spans:
                    sw.n_exported = next(sw._exp) + 1
                return SpanExportResult.SUCCESS

            def shutdown(self):
                pass

            def force_flush(self, timeout_millis=30000):
                return True

        self.mem = InMemorySpanExporter()
        noop, otlp = Noop(), OTLPSpanExporter(endpoint=f"http://127.0.0.1:{sink_port}/v1/traces")
        self.exporters = {"noop": noop, "memory": self.mem, "otlp": otlp}
        self.procs = {
            "noop": BatchSpanProcessor(noop),
            "memory": SimpleSpanProcessor(self.mem),
            "otlp": BatchSpanProcessor(otlp),
        }
        self.mode = "noop"
        self.cur = self.procs["noop"]

        class Proc(SpanProcessor):
            def on_start(self, span, parent_context=None):
                sw.n_started = next(sw._start) + 1

            def on_end(self, span):
                sw.n_ended = next(sw._end) + 1
                if sw.cur is not None:
                    sw.cur.on_end(span)

            def shutdown(self):
                pass

            def force_flush(self, timeout_millis=30000):
                return True

        class Exp(SpanExporter):
            def export(self, spans):
                return sw.exporters[sw.mode].export(spans)

            def shutdown(self):
                pass

            def force_flush(self, timeout_millis=30000):
                return True

        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, Sampler

        class Sam(Sampler):
            impl = DEFAULT_ON

            def should_sample(self, *a, **k):
                return self.impl.should_sample(*a, **k)

            def get_description(self):
                return "switch"

        self.sampler, self._on, self._off = Sam(), DEFAULT_ON, ALWAYS_OFF
        self.proc, self.exporter = Proc(), Exp()
        self.provider = TracerProvider(
            resource=Resource.create({"service.name": "bench"}), sampler=self.sampler
        )
        self.provider.add_span_processor(self.proc)
        self.user_provider = self.provider  # the provider the "application" uses
        self.owns_export = True  # False: the peer exports by itself

    def set_mode(self, mode: str):
        self.sampler.impl = self._off if mode == "unsampled" else self._on
        if mode == "unsampled":
            mode = "noop"
        self.mode = mode
        self.cur = self.procs[mode] if self.owns_export else None

    def record_all(self):
        """Correctness runs: everything on the provider goes to memory."""
        self.cur = self.procs["memory"]
        self.mode = "noop"

    def flush(self):
        if self.owns_export and self.cur is not None:
            self.cur.force_flush()

    def counts(self):
        return self.n_started, self.n_ended, self.n_exported

    def tracer(self):
        return self.user_provider.get_tracer("bench.app")


class Setup:
    """How an integration is on, and how it is turned off and on again, where it can be.

    ``switch(on)``: what that takes beyond not handing over callbacks; may return new ones.
    """

    def __init__(self, callbacks=(), flush=None, around=None, switch=None, extra=None):
        self.callbacks, self.flush, self.around = list(callbacks), flush, around
        self.extra, self.on, self._kept = extra or {}, True, list(callbacks)
        self._switch = switch
        self.switchable = bool(switch or callbacks or around)

    def switch(self, on):
        """Off, a call gets no callbacks and no function around it, or what ``switch`` undid."""
        if on != self.on:
            self.on = on
            made = self._switch(on) if self._switch else None
            # The list that calls are given is the same one all the time.
            self.callbacks[:] = (made or self._kept) if on else []


def switching(on, off):
    """A ``switch`` made of two functions."""

    def switch(wanted):
        (on if wanted else off)()

    return switch


def switching_instrumentor(instrumentor, sw):
    return switching(
        lambda: instrumentor().instrument(tracer_provider=sw.provider),
        lambda: instrumentor().uninstrument(),
    )


# --------------------------------------------------------------- baselines
def none(target, sw):
    return Setup()


def _noop(inline):
    def setup(target, sw):
        if target == "langchain":
            from langchain_core.callbacks import BaseCallbackHandler

            class Nothing(BaseCallbackHandler):
                run_inline = inline

            return Setup([Nothing()])
        if target == "litellm":
            import litellm
            from litellm.integrations.custom_logger import CustomLogger

            litellm.callbacks = [CustomLogger()]
            return Setup()
        if target == "crewai":
            from crewai.events import (
                BaseEventListener,
                CrewKickoffStartedEvent,
                LLMCallCompletedEvent,
            )

            class L(BaseEventListener):
                def setup_listeners(self, bus):
                    @bus.on(CrewKickoffStartedEvent)
                    def a(source, event):
                        pass

                    @bus.on(LLMCallCompletedEvent)
                    def b(source, event):
                        pass

            return Setup(extra={"keep": L()})

    return setup


def floor_inline(target, sw):
    """Bare OTel: start + end + ten attributes around the call, no framework hook."""
    tracer = sw.tracer()

    def around(fn):
        def run(*a, **k):
            s = tracer.start_span("chat canned-1", attributes=TEN)
            try:
                return fn(*a, **k)
            finally:
                s.set_attributes(TEN_END)
                s.end()

        return run

    if target == "crewai":  # kickoff + 2 tasks + 2 agents + 2 LLM = 7 bare spans

        def around(fn):
            def run(*a, **k):
                for at in (TEN, TEN, AGENT, AGENT, TOOL, TOOL):
                    s = tracer.start_span(at["gen_ai.operation.name"], attributes=at)
                    s.set_attributes(TEN_END)
                    s.end()
                s = tracer.start_span("crew", attributes=AGENT)
                try:
                    return fn(*a, **k)
                finally:
                    s.set_attributes(TEN_END)
                    s.end()

            return run

    return Setup(around=around)


def _floor_logger(sw):
    """The least a correct LiteLLM logger can do: the parent is the caller's span."""
    import litellm
    from litellm.integrations.custom_logger import CustomLogger
    from opentelemetry.context import get_current

    tracer = sw.tracer()

    class Floor(CustomLogger):
        def __init__(self):
            super().__init__()
            self.calls = {}

        def log_pre_api_call(self, model, messages, kwargs):
            self.calls[kwargs["litellm_call_id"]] = get_current(), time.time_ns()

        def log_success_event(self, kwargs, response_obj, start_time, end_time):
            call = self.calls.pop(kwargs["litellm_call_id"], None)
            if call:
                name = "chat canned-1"
                s = tracer.start_span(name, context=call[0], attributes=TEN, start_time=call[1])
                s.set_attributes(TEN_END)
                s.end()

        async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
            self.log_success_event(kwargs, response_obj, start_time, end_time)

        def log_failure_event(self, kwargs, response_obj, start_time, end_time):
            self.calls.pop(kwargs["litellm_call_id"], None)

    litellm.callbacks = [Floor()]
    return Setup()


def _floor_handler(content):
    def setup(target, sw):
        if target == "litellm":
            return _floor_logger(sw)
        from langchain_core.callbacks import BaseCallbackHandler
        from opentelemetry import trace

        tracer = sw.tracer()
        dumps = json.dumps
        ctx_of = trace.set_span_in_context

        class Floor(BaseCallbackHandler):
            """The least a correct callback tracer can do: one span per model call,
            tool call and top-level run, right parents, ten attributes."""

            run_inline = True

            def __init__(self):
                self.runs = {}

            def _open(self, name, run_id, parent, attrs):
                p = self.runs.get(parent) if parent is not None else None
                s = tracer.start_span(name, context=ctx_of(p[0]) if p else None, attributes=attrs)
                self.runs[run_id] = [s, True, 0]

            def _close(self, run_id, attrs=None, err=None):
                r = self.runs.pop(run_id, None)
                if r and r[1]:
                    if attrs:
                        r[0].set_attributes(attrs)
                    if err is not None:
                        r[0].set_attribute("error.type", type(err).__name__)
                        r[0].set_status(trace.StatusCode.ERROR)
                    r[0].end()

            def on_chat_model_start(
                self, serialized, messages, *, run_id, parent_run_id=None, **kw
            ):
                at = TEN
                if content:
                    at = dict(TEN)
                    at["gen_ai.input.messages"] = dumps(
                        [
                            {"role": m.type, "parts": [{"type": "text", "content": m.content}]}
                            for m in messages[0]
                        ]
                    )
                self._open("chat canned-1", run_id, parent_run_id, at)

            def on_llm_new_token(self, token, *, run_id, **kw):
                r = self.runs.get(run_id)
                if r is not None and not r[2]:
                    r[2] = time.time_ns()

            def on_llm_end(self, response, *, run_id, **kw):
                at = TEN_END
                if content:
                    m = response.generations[0][0].message
                    at = dict(TEN_END)
                    at["gen_ai.output.messages"] = dumps(
                        [
                            {
                                "role": "assistant",
                                "parts": [{"type": "text", "content": m.content}],
                                "finish_reason": "stop",
                            }
                        ]
                    )
                self._close(run_id, at)

            def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kw):
                if parent_run_id is None:
                    self._open("invoke_agent", run_id, None, AGENT)
                else:
                    p = self.runs.get(parent_run_id)
                    if p is not None:
                        self.runs[run_id] = [p[0], False, 0]

            def on_chain_end(self, outputs, *, run_id, **kw):
                self._close(run_id, TEN_END)

            def on_tool_start(self, serialized, input_str, *, run_id, parent_run_id=None, **kw):
                self._open("execute_tool", run_id, parent_run_id, TOOL)

            def on_tool_end(self, output, *, run_id, **kw):
                self._close(run_id, TEN_END)

            def on_llm_error(self, error, *, run_id, **kw):
                self._close(run_id, None, error)

            on_chain_error = on_tool_error = on_llm_error

        return Setup([Floor()])

    return setup


# -------------------------------------------------------------------- ours
def slm_adapters(target, sw):
    """slm-adapters as its README says: construct the recorder, hand it over."""
    options = {"tracer_provider": sw.provider}
    if target == "langchain":
        from slm_adapters.langchain import CallRecorder

        # Off, the recorder is gone, and with it what it wraps.
        return Setup([CallRecorder(**options)], switch=lambda on: on and [CallRecorder(**options)])
    if target == "crewai":
        from slm_adapters.crewai import instrument, uninstrument

        instrument(**options)
        return Setup(switch=switching(lambda: instrument(**options), uninstrument))
    from slm_adapters.litellm import CallRecorder

    live = [CallRecorder(**options)]

    def off():
        live.pop().close()

    return Setup(switch=switching(lambda: live.append(CallRecorder(**options)), off))


# ------------------------------------------------------------------- peers
def openinference(target, sw):
    if target == "langchain":
        from openinference.instrumentation.langchain import LangChainInstrumentor as I
    elif target == "crewai":
        from openinference.instrumentation.crewai import CrewAIInstrumentor as I
    else:
        from openinference.instrumentation.litellm import LiteLLMInstrumentor as I
    I().instrument(tracer_provider=sw.provider)
    if target == "crewai":  # wrapper mode leaves LLM spans to the LLM client: add its instrumentor
        from openinference.instrumentation.litellm import LiteLLMInstrumentor

        LiteLLMInstrumentor().instrument(tracer_provider=sw.provider)
    return Setup(switch=None if target == "litellm" else switching_instrumentor(I, sw))


def openinference_events(target, sw):
    from openinference.instrumentation.crewai import CrewAIInstrumentor

    CrewAIInstrumentor().instrument(tracer_provider=sw.provider, use_event_listener=True)
    return Setup()


def openllmetry(target, sw):
    if target == "langchain":
        from opentelemetry.instrumentation.langchain import LangchainInstrumentor as I
    else:
        from opentelemetry.instrumentation.crewai import CrewAIInstrumentor as I
    I().instrument(tracer_provider=sw.provider)
    # In LangChain its wrappers stay after uninstrument() and slow the untraced calls down.
    return Setup(switch=switching_instrumentor(I, sw) if target == "crewai" else None)


def langfuse(target, sw):
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler

    sw.owns_export = False
    lf = Langfuse(
        public_key="pk-bench",
        secret_key="sk-bench",
        base_url=f"http://127.0.0.1:{os.environ['SINK_PORT']}",
        tracer_provider=sw.provider,
        span_exporter=sw.exporter,
    )
    return Setup([CallbackHandler()], flush=lf.flush)


def langsmith_otel(target, sw):
    from langchain_core.tracers.langchain import LangChainTracer
    from langsmith import Client

    c = Client(
        api_key="x",
        api_url=f"http://127.0.0.1:{os.environ['SINK_PORT']}",
        tracing_mode="otel",
        otel_tracer_provider=sw.provider,
    )
    return Setup([LangChainTracer(client=c)], flush=c.flush)


def logfire(target, sw):
    import logfire as lg
    from opentelemetry import trace

    lg.configure(
        send_to_logfire=False,
        console=False,
        inspect_arguments=False,
        additional_span_processors=[sw.proc],
    )
    sw.user_provider = trace.get_tracer_provider()
    if target == "litellm":
        lg.instrument_litellm()
        return Setup()
    from langchain_core.tracers.langchain import LangChainTracer
    from langsmith import Client

    c = Client(
        api_key="x",
        api_url=f"http://127.0.0.1:{os.environ['SINK_PORT']}",
        tracing_mode="otel",
        otel_tracer_provider=trace.get_tracer_provider(),
    )
    return Setup([LangChainTracer(client=c)], flush=c.flush)


def mlflow(target, sw):
    from opentelemetry import trace

    trace.set_tracer_provider(sw.provider)
    sw.owns_export = False
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{os.environ['SINK_PORT']}"
    os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = (
        f"http://127.0.0.1:{os.environ['SINK_PORT']}/v1/traces"
    )
    import mlflow as mf
    import mlflow.tracing.provider as mp

    mp.get_otlp_exporter = lambda: sw.exporter  # mlflow's own batch processor, our exporter
    getattr(mf, target).autolog()

    def flush():
        for p in sw.provider._active_span_processor._span_processors:
            p.force_flush()

    return Setup(flush=flush)


def openlit(target, sw):
    from opentelemetry import trace

    trace.set_tracer_provider(sw.provider)
    import openlit as ol
    from openlit._instrumentors import MODULE_NAME_MAP

    keep = {
        "langchain": {"langchain", "langgraph"},
        "crewai": {"crewai", "litellm"},
        "litellm": {"litellm"},
    }[target]
    f = tempfile.NamedTemporaryFile("w", suffix=".json", delete=False)
    f.write('{"chat": {}}')
    f.close()
    ol.init(
        disable_metrics=True,
        disable_events=True,
        pricing_json=f.name,
        disabled_instrumentors=[n for n in MODULE_NAME_MAP if n not in keep],
    )
    return Setup()


def otel_genai(target, sw):
    from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument(tracer_provider=sw.provider)
    return Setup(switch=switching_instrumentor(LangChainInstrumentor, sw))


def litellm_otel(target, sw):
    import litellm
    from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig

    litellm.callbacks = [
        OpenTelemetry(config=OpenTelemetryConfig(exporter=sw.mem), tracer_provider=sw.provider)
    ]
    return Setup()


def litellm_otel_v2(target, sw):
    import litellm
    from litellm.integrations.otel.logger import build_otel_v2_logger
    from litellm.integrations.otel.model.config import OpenTelemetryV2Config

    litellm.callbacks = [
        build_otel_v2_logger(config=OpenTelemetryV2Config(), tracer_provider=sw.provider)
    ]
    return Setup()


def crewai_native(target, sw):
    """crewai's own event-to-span session (the one behind its AMP tracing), with
    our processor instead of its exporter. Semi-private API: a reference point."""
    import uuid

    from crewai.telemetry.tracing import telemetry_session
    from opentelemetry import trace

    def around(fn):
        def run(*a, **k):
            c = trace.get_current_span().get_span_context()
            up = (c.trace_id, c.span_id) if c.is_valid else None
            with telemetry_session(
                str(uuid.uuid4()), "bench", processors=[sw.proc], parent_otel_context=up
            ):
                return fn(*a, **k)

        return run

    return Setup(around=around)


LC, CR, LL = "langchain", "crewai", "litellm"
CAPTURE = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"}
OURS = {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2] / "src")}
# name: (venv, targets, setup, extra env, note)
PEERS = {
    "none": ("base", {LC, CR, LL}, none, {}, "no tracing"),
    "none-again": ("base", {LC, CR, LL}, none, {}, "A/A control: a second untraced process"),
    "noop-handler": ("base", {LC, CR, LL}, _noop(False), {}, "handler/listener that does nothing"),
    "noop-inline": ("base", {LC}, _noop(True), {}, "the same with run_inline=True"),
    "floor-otel": ("base", {LC, CR, LL}, floor_inline, {}, "bare OTel span + 10 attributes"),
    "floor-handler": ("base", {LC, LL}, _floor_handler(False), {}, "minimal callback tracer"),
    "floor-content": (
        "base",
        {LC},
        _floor_handler(True),
        {},
        "the same + input/output messages as JSON",
    ),
    "slm-adapters": (
        "base",
        {LC, CR, LL},
        slm_adapters,
        OURS,
        "this package, content off (its default)",
    ),
    "slm-adapters+content": (
        "base",
        {LC, CR, LL},
        slm_adapters,
        CAPTURE | OURS,
        "this package, content on spans",
    ),
    "openinference": ("oi", {LC, CR, LL}, openinference, {}, "Arize OpenInference"),
    "openinference-ev": (
        "oi",
        {CR},
        openinference_events,
        {},
        "OpenInference, event-listener mode",
    ),
    "openllmetry": ("tl", {LC, CR}, openllmetry, {}, "Traceloop OpenLLMetry"),
    "langfuse": ("lf", {LC}, langfuse, {}, "Langfuse CallbackHandler"),
    "langsmith-otel": ("base", {LC}, langsmith_otel, {}, "LangSmith client, tracing_mode=otel"),
    "logfire": (
        "lfi",
        {LC, LL},
        logfire,
        {},
        "Logfire (LangChain through LangSmith-otel; LiteLLM through OpenInference)",
    ),
    "mlflow": (
        "ml",
        {LC, CR, LL},
        mlflow,
        {"MLFLOW_USE_DEFAULT_TRACER_PROVIDER": "false"},
        "MLflow autolog, OTLP path",
    ),
    "openlit": ("ol", {LC, CR, LL}, openlit, {}, "OpenLIT (metrics and events off)"),
    "otel-genai": ("og", {LC}, otel_genai, {}, "OTel official, content off (its default)"),
    "otel-genai+content": ("og", {LC}, otel_genai, CAPTURE, "OTel official, content on spans"),
    "litellm-otel": ("base", {LL}, litellm_otel, {}, "LiteLLM built-in otel callback"),
    "litellm-otel-v2": (
        "base",
        {LL},
        litellm_otel_v2,
        {"LITELLM_OTEL_V2": "true"},
        "LiteLLM built-in otel, V2 flag",
    ),
    "crewai-native": ("base", {CR}, crewai_native, {}, "crewai's own TraceSession"),
}

# what to time in the import table: host preload, then the peer's import + switch-on
IMPORTS = {
    "slm-adapters": (
        "base",
        LC,
        "import sys; sys.path.insert(0, OURS_SRC); from slm_adapters.langchain import CallRecorder; CallRecorder()".replace(
            "OURS_SRC", repr(OURS["PYTHONPATH"])
        ),
    ),
    "slm-adapters (crewai)": (
        "base",
        CR,
        "import sys; sys.path.insert(0, OURS_SRC); from slm_adapters.crewai import CallRecorder; CallRecorder()".replace(
            "OURS_SRC", repr(OURS["PYTHONPATH"])
        ),
    ),
    "openinference": (
        "oi",
        LC,
        "from openinference.instrumentation.langchain import LangChainInstrumentor as I; I().instrument()",
    ),
    "openllmetry": (
        "tl",
        LC,
        "from opentelemetry.instrumentation.langchain import LangchainInstrumentor as I; I().instrument()",
    ),
    "langfuse": (
        "lf",
        LC,
        "from langfuse import Langfuse; from langfuse.langchain import CallbackHandler",
    ),
    "langsmith-otel": (
        "base",
        LC,
        "from langsmith import Client; from langchain_core.tracers.langchain import LangChainTracer; from langsmith._internal.otel._otel_exporter import OTELExporter",
    ),
    "logfire": (
        "lfi",
        LC,
        "import logfire; logfire.configure(send_to_logfire=False, console=False)",
    ),
    "mlflow": ("ml", LC, "import mlflow; mlflow.langchain.autolog()"),
    "openlit": ("ol", LC, "import openlit"),
    "otel-genai": (
        "og",
        LC,
        "from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor as I; I().instrument()",
    ),
    "opentelemetry-sdk": ("base", LC, "import opentelemetry.sdk.trace.export"),
    "otlp-http exporter": (
        "base",
        LC,
        "import opentelemetry.sdk.trace.export; import opentelemetry.exporter.otlp.proto.http.trace_exporter",
    ),
    "openinference (crewai)": (
        "oi",
        CR,
        "from openinference.instrumentation.crewai import CrewAIInstrumentor as I; I().instrument()",
    ),
    "openllmetry (crewai)": (
        "tl",
        CR,
        "from opentelemetry.instrumentation.crewai import CrewAIInstrumentor as I; I().instrument()",
    ),
}
HOST_IMPORT = {
    LC: "import langchain_core.language_models.chat_models, langchain_core.callbacks.manager",
    CR: "import crewai",
}

COMMON_ENV = {
    # crewai: silence its own telemetry and its trace upload WITHOUT killing the
    # OTel SDK for everybody (OTEL_SDK_DISABLED would)
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_TESTING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "ANONYMIZED_TELEMETRY": "false",
    "TRACELOOP_TELEMETRY": "false",
    "LOGFIRE_IGNORE_NO_CONFIG": "1",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "OTEL_PYTHON_LOG_LEVEL": "error",
    "PYTHONWARNINGS": "ignore",
}
