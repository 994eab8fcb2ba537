"""The bundled model: its files, its chat format, and what it answers to real framework prompts."""

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "src" / "slm_adapters" / "models" / "bundled"
sys.path.insert(0, str(ROOT / "examples" / "bundled_slm"))

# ruff: noqa: E402  (the recipe is a folder of scripts; the line above makes it importable)
import chat
import general
import tasks
import tickets_varied

from slm_adapters.demo import roles, wordings
from slm_adapters.demo.tickets import generate

TICKETS = generate(4, seed=31, split="heldout")


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module", params=["none", "nf4"])
def model(request):
    """Weights as stored, or rounded to nf4; computed in float32, which every CPU is quick at."""
    import torch

    config = None
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
        config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.bfloat16, quantization_config=config, device_map="cpu"
    )
    if config is not None:
        model.dequantize()
    return model.eval().float()


def answer(model, tokenizer, messages, tools=None):
    prompt = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=150, do_sample=False)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_files_fit_the_wheel_and_are_bf16():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 32_000_000
    from safetensors import safe_open

    with safe_open(MODEL / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118  (not a dict)
            tensor = weights.get_slice(name)
            assert tensor.get_dtype() == "BF16"
            if "layers" in name and len(tensor.get_shape()) == 2:
                # What bitsandbytes' nf4 needs on a CPU.
                rows, columns = tensor.get_shape()
                assert rows % 32 == 0
                assert columns % 64 == 0


def test_no_training_phrase_is_a_heldout_template():
    heldout = set()
    for language in ("en", "ja"):
        for problem in wordings.PROBLEMS[language].values():
            heldout |= {normal(line) for part in problem["heldout"].values() for line in part}
        for part in ("opening", "order", "other", "high", "danger", "low", "normal"):
            heldout |= {normal(line) for line in wordings.AROUND[language]["heldout"][part]}
    heldout.discard("")
    assert len(heldout) > 100
    seen = 0
    for phrases in tickets_varied.PHRASES.values():
        for lines in phrases.values():
            for line in lines:
                for text in every(line):
                    seen += 1
                    assert normal(text) not in heldout, text
    assert seen > 5_000


def every(template):
    """All resolutions of a template's choices."""
    match = re.search(r"\[([^\[\]]*)\]", template)
    if not match:
        return [template]
    before, after = template[: match.start()], template[match.end() :]
    return [text for c in match[1].split("|") for text in every(before + c + after)]


def normal(template):
    return re.sub(r"[\s.,;!?。、]", "", re.sub(r"\{\w+\}", "_", template)).lower()


def test_template_renders_as_the_training_did(tokenizer):
    import random

    rng = random.Random(3)
    for i in range(150):
        make = tasks.demo_example if i % 2 else general.general_example
        example = make(rng, "train" if i % 3 else "heldout")
        expected = "".join(text for text, _ in chat.segments(example.messages, example.tools))
        tools = example.tools or None
        rendered = tokenizer.apply_chat_template(example.messages, tools=tools, tokenize=False)
        assert rendered == expected
        ids = tokenizer(rendered).input_ids
        assert tokenizer.decode(ids) == rendered


def test_template_takes_every_message_shape(tokenizer):
    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    user = {"role": "user", "content": "Hi"}
    assert render([user], add_generation_prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    systems = [{"role": "system", "content": "A"}, {"role": "system", "content": "B"}, user]
    assert render(systems).startswith(
        "<|im_start|>system\nA<|im_end|>\n<|im_start|>system\nB<|im_end|>\n<|im_start|>user\nHi"
    )
    with_tools = render(systems, tools=[roles.TOOL])
    assert with_tools.startswith(
        '<|im_start|>system\nA\n\n# Tools\n<tools>\n{"name": "lookup_order"'
    )
    assert render([user], tools=[roles.TOOL]).startswith("<|im_start|>system\n# Tools\n<tools>\n")
    call = chat.call("f", {"a": "あ"})
    as_dict = json.loads(json.dumps(call))
    as_dict["tool_calls"][0]["function"]["arguments"] = {"a": "あ"}
    expected = (
        '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"a": "あ"}}\n'
        "</tool_call><|im_end|>\n"
    )
    assert render([user, call]).endswith(expected)
    assert render([user, as_dict]).endswith(expected)
    assert render([user, {**call, "content": "So:"}]).endswith(
        expected.replace("<tool_call>", "So:\n<tool_call>", 1)
    )
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert render([parts]) == render([user])
    result = {"role": "tool", "tool_call_id": "1", "content": "null"}
    assert render([user, call, result]).endswith("<|im_start|>tool\nnull<|im_end|>\n")


def test_crewai_sends_what_the_model_was_trained_on():
    crewai = pytest.importorskip("crewai")
    from crewai.tools import tool

    seen = []
    ticket = next(t for t in TICKETS if t.order)
    orders = {ticket.order_id: ticket.order}

    class Recorder(crewai.BaseLLM):
        def call(self, messages, tools=None, *args, **kwargs):
            seen.append((json.loads(json.dumps(messages)), tools))
            if tools and messages[-1]["role"] != "tool":
                return chat.call(roles.TOOL_NAME, {"order_id": ticket.order_id})["tool_calls"]
            return roles.expected_lookup(ticket) if tools else roles.expected_triage(ticket)

        def supports_function_calling(self):
            return True

    @tool(roles.TOOL_NAME)
    def lookup(order_id: str) -> str:
        """Look up an order by its id. Returns the order as JSON, or null."""
        return roles.lookup_order(orders, order_id)

    llm = Recorder(model="recorder")

    def agent(role, tools):
        return crewai.Agent(
            role=role.name, goal=role.goal, backstory=role.backstory, llm=llm, tools=tools
        )

    def task(role, tools):
        return crewai.Task(
            description=role.description,
            expected_output=role.expected_output,
            agent=agent(role, tools),
        )

    steps = [task(roles.TRIAGE, []), task(roles.LOOKUP, [lookup])]
    crew = crewai.Crew(agents=[step.agent for step in steps], tasks=steps)
    crew.kickoff(inputs={"ticket": ticket.text})

    def plain(messages):
        keys = ("role", "content")
        return [{key: m[key] for key in keys} for m in messages if "tool_calls" not in m]

    triage = tasks.triage_exact(None, ticket, "crew").messages
    look_up = tasks.lookup_exact(None, ticket, "crew").messages
    assert plain(seen[0][0]) == triage[:-1]
    assert seen[0][1] is None
    assert plain(seen[1][0]) == look_up[:2]
    assert plain(seen[2][0]) == plain(look_up[:-1])
    parameters = seen[1][1][0]["function"]["parameters"]
    assert parameters == tasks.crew_tool("crew")["function"]["parameters"]


def test_langgraph_sends_what_the_model_was_trained_on():
    agents = pytest.importorskip("langchain.agents")
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, convert_to_openai_messages
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool
    from langchain_core.utils.function_calling import convert_to_openai_tool

    seen = []
    ticket = next(t for t in TICKETS if t.order)

    class Recorder(BaseChatModel):
        @property
        def _llm_type(self):
            return "recorder"

        def bind_tools(self, tools, **kwargs):
            return self.bind(tools=[convert_to_openai_tool(t) for t in tools])

        def _generate(self, messages, stop=None, run_manager=None, tools=None, **kwargs):
            seen.append((convert_to_openai_messages(messages), tools))
            call = {"name": roles.TOOL_NAME, "args": {"order_id": ticket.order_id}, "id": "call_1"}
            calls = [] if messages[-1].type == "tool" else [call]
            reply = AIMessage("" if calls else "done", tool_calls=calls)
            return ChatResult(generations=[ChatGeneration(message=reply)])

    @tool(roles.TOOL_NAME, description=roles.TOOL_DESCRIPTION)
    def lookup(order_id: str) -> str:
        return roles.lookup_order({ticket.order_id: ticket.order}, order_id)

    agent = agents.create_agent(Recorder(), [lookup], system_prompt=roles.LOOKUP.system_prompt)
    agent.invoke({"messages": [{"role": "user", "content": ticket.text}]})

    trained = tasks.lookup_exact(None, ticket, "graph")
    assert seen[0][0] == trained.messages[:2]
    assert seen[0][1][0]["function"] == trained.tools[0]["function"]
    assert seen[1][0][-1]["content"] == trained.messages[-2]["content"]


def test_answers_the_two_roles_on_heldout_tickets(model, tokenizer):
    examples = []
    for ticket in TICKETS:
        for shape in ("crew", "graph"):
            examples.append(tasks.triage_exact(None, ticket, shape))
            examples.append(tasks.lookup_exact(None, ticket, shape))
    right = turns = 0
    for example in examples:
        for at, message in enumerate(example.messages):
            if message["role"] == "assistant":
                turns += 1
                got = answer(model, tokenizer, example.messages[:at], example.tools or None)
                right += got == chat.assistant_text(message)
    # The model card has the rate on many more tickets; this notices a broken checkpoint.
    assert right / turns >= 0.85


def test_copies_an_id_it_cannot_have_seen(model, tokenizer):
    # One digit changed at a time: only reading the ticket gives each of the answers.
    for digit in "0369":
        number = f"QX{digit}-7714-{digit}Z"
        text = f"Subject: parcel lost\n\nHello,\nmy order number is {number}. Where is my parcel?\n"
        got = answer(model, tokenizer, chat.graph_messages(roles.TRIAGE.system_prompt, text))
        assert json.loads(got)["order_id"] == number
        assert json.loads(got)["category"] == "delivery"
