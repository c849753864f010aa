"""``tunesmith chat`` and ``tunesmith compare``: ask a model, or a base model and its tuned form side by side."""

import sys
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import completing
from tunesmith.cli.screen import HomeOption, JsonOption, console, line, note, plain, say, show_json, show_problem, verb
from tunesmith.cli.session import Session
from tunesmith.kernel.problems import Invalid, Problem

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.datasets.example import Message
    from tunesmith.inference.engine import Done, Sampling
    from tunesmith.models.model import Model

CHAT_HELP = say(
    "与模型对话；--prompt 只问一次。对话中 /reset 重新开始，/quit 结束",
    "Talk with a model; --prompt asks once. In a conversation /reset starts over and /quit ends.",
)
COMPARE_HELP = say(
    "同一问题同时问基座与微调模型，并排显示",
    "Ask base and tuned side by side. Both answer the same question at the same time.",
)

TemperatureOption = Annotated[
    float, typer.Option(help=say("0 表示每次取最可能的词元", "0 always takes the likeliest token."))
]
TopPOption = Annotated[float, typer.Option(help=say("核采样的概率质量", "Probability mass kept when sampling."))]
MaxTokensOption = Annotated[int, typer.Option(help=say("回答的最多词元数", "Most tokens of an answer."))]
SeedOption = Annotated[int | None, typer.Option(help=say("随机种子", "Random seed."))]
SystemOption = Annotated[str | None, typer.Option(help=say("系统消息", "System message."))]


@verb
def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completing.models,
            help=say(
                "基座模型、适配器或已加载的名字；默认为当前模型", "Base model, adapter or served name; the current one."
            ),
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help=say("只问这一句", "Ask only this."))] = None,
    system: SystemOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    max_tokens: MaxTokensOption = 512,
    seed: SeedOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See CHAT_HELP."""
    sampling = sampling_of(temperature, top_p, max_tokens, seed)
    with Session(home) as session:
        talk = Talk(session.services, session.services.served.resolve(model).model, sampling, system)
        start_engine(session, talk.model)
        if prompt is not None:
            answer, done = session.run(talk.ask(prompt, quiet=as_json))
            if as_json:
                show_json(_answer(talk.model, prompt, answer, done))
        else:
            _converse(session, talk, as_json=as_json)


@verb
def compare(
    adapter: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completing.adapters,
            help=say("适配器；默认为当前模型的，或最新的一个", "The adapter; the current model's or the newest one."),
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help=say("问题，可重复", "A question; may be repeated."))
    ] = None,
    system: SystemOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    max_tokens: MaxTokensOption = 512,
    seed: SeedOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See COMPARE_HELP."""
    from tunesmith.cli import side_by_side

    sampling = sampling_of(temperature, top_p, max_tokens, seed)
    answers = []
    with Session(home) as session:
        model = tuned_model(session.services, adapter)
        note(say(f"基座 {model.base}，微调 {model.adapter}", f"base {model.base}, tuned {model.adapter}"))
        start_engine(session, model)
        for text in prompt or questions():
            pair = side_by_side.Pair(text)
            events = session.services.chat.compare(conversation(text, system), model, sampling)
            session.run(side_by_side.gather(pair, events) if as_json else side_by_side.show_live(pair, events))
            answers.append({"prompt": text, "base": pair.base, "tuned": pair.tuned})
    if as_json:
        show_json({"base_model": model.base, "adapter": model.adapter, "answers": answers})


class Talk:
    """A conversation as it grows; a question that was not answered is not part of it."""

    def __init__(self, services: "Services", model: "Model", sampling: "Sampling", system: str | None) -> None:
        self._services, self.model, self._sampling, self._system = services, model, sampling, system
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = conversation("", self._system)[:-1]

    async def ask(self, text: str, *, quiet: bool = False) -> "tuple[str, Done]":
        """The answer, written to standard output as it comes unless ``quiet``.

        Raises:
            Problem: the engine or the model refuses; the conversation is as it was before.
        """
        from tunesmith.datasets.example import Message
        from tunesmith.inference.engine import Delta, Done

        asked = [*self.messages, Message("user", text)]
        parts: list[str] = []
        done: Done | None = None
        async with aclosing(self._services.chat.answer(asked, self.model, self._sampling)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    parts.append(event.text)
                    if not quiet:
                        sys.stdout.write(plain(event.text))
                        sys.stdout.flush()
                else:
                    done = event
        if not quiet:
            line()
        assert done is not None, "the engine promises one Done a row"
        self.messages = [*asked, Message("assistant", "".join(parts))]
        return "".join(parts), done


def start_engine(session: Session, model: "Model") -> None:
    """Have the engine ready before anything is asked, and say so while a person waits for it.

    A model at a provider needs none of this machine's.
    """
    from tunesmith.inference.switchboard import provider_of

    if provider_of(model) is not None:
        return
    with console(stderr=True).status(say(f"启动 {model.base} 的引擎……", f"starting the engine of {model.base} ...")):
        session.services.registry.check(model)
        session.run(session.services.engines.ensure(model.base))


def sampling_of(temperature: float, top_p: float, max_tokens: int, seed: int | None) -> "Sampling":
    """How the options ask to sample; the same question gets the same answer unless asked otherwise."""
    from tunesmith.inference.engine import Sampling

    return Sampling(max_tokens, temperature, top_p, top_k=0, repetition_penalty=1.0, seed=seed)


def conversation(text: str, system: str | None) -> "list[Message]":
    """A conversation whose last message is the user's."""
    from tunesmith.datasets.example import Message

    return [*([Message("system", system)] if system else []), Message("user", text)]


def tuned_model(services: "Services", adapter: str | None) -> "Model":
    """The model to set beside its base.

    Raises:
        NotFound: no such adapter, or none at all. Invalid: the name is a base model's.
    """
    settings = services.settings
    if adapter is None:
        return services.served.tuned(
            settings.finetuning_base_model, settings.finetuning_lora_path, settings.finetuning_model_name
        ).model
    model = services.served.get(adapter).model
    if model.adapter is None:
        raise Invalid(
            f"{adapter} 是基座模型，没有适配器可比较", f"{adapter} is a base model: there is no adapter to compare"
        )
    return model


def questions() -> Iterator[str]:
    """What the person types, a line a question, until the end of the input or /quit."""
    person = sys.stdin.isatty()
    if person:
        import readline  # noqa: F401  # editing and history for input()
    while True:
        try:
            text = input("> " if person else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise Invalid("输入不是 UTF-8 文本", "the input is not UTF-8 text") from error
        if text == "/quit":
            return
        if text:
            yield text


def _converse(session: Session, talk: Talk, *, as_json: bool) -> None:
    name = talk.model.adapter or talk.model.base
    note(say(f"与 {name} 对话（/reset 重新开始，/quit 结束）", f"talking with {name} (/reset starts over, /quit ends)"))
    for text in questions():
        if text == "/reset":
            talk.reset()
            note(say("已重新开始", "started over"))
            continue
        try:
            answer, done = session.run(talk.ask(text, quiet=as_json))
        except Problem as problem:  # one refused question does not end a conversation
            if not sys.stdin.isatty():
                raise
            show_problem(problem, as_json=as_json)
            continue
        except KeyboardInterrupt:  # stops the answer; at the prompt it ends the conversation
            line()
            continue
        if as_json:
            show_json(_answer(talk.model, text, answer, done))


def _answer(model: "Model", prompt: str, answer: str, done: "Done") -> dict[str, object]:
    return {
        "base_model": model.base,
        "adapter": model.adapter,
        "prompt": prompt,
        "answer": answer,
        "finish": done.finish,
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "first_token_seconds": done.first_token_s,
        "seconds": done.seconds,
    }
