"""Lists of models as servers give them."""

from typing import Any

import pytest

from fleet.model_servers import EndpointConfig
from workers.llm.servers.cards import cards_in
from workers.llm.servers.endpoint import Endpoint, ModelCard, rules_of


def endpoint(*cards: ModelCard, **more: Any) -> Endpoint:
    made = Endpoint("a", EndpointConfig(url="http://a", **more), rules_of(5, 0.5, 1.0, 10.0))
    made.models = cards
    return made


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"object": "list", "data": [{"id": "m", "max_model_len": 8192}]}, (ModelCard("m", 8192),)),
        ({"data": [{"id": "m", "meta": {"n_ctx": 4096}}]}, (ModelCard("m", 4096),)),
        ([{"id": "m", "context_length": 131072.0}], (ModelCard("m", 131072),)),
        ({"data": [{"id": "m", "context_window": "32768"}, {"no": "id"}, 7, None]}, (ModelCard("m", 32768),)),
        ({"models": [{"name": "m"}]}, (ModelCard("m"),)),
        ({"data": [{"id": "m", "meta": "none", "max_model_len": None}]}, (ModelCard("m"),)),
        ({"data": [{"id": "m", "max_model_len": True}]}, (ModelCard("m"),)),
        ({"data": {"m": {"max_model_len": 4096}, "n": {}}}, (ModelCard("m", 4096), ModelCard("n"))),
        ({"result": {"data": [{"id": "m"}]}}, (ModelCard("m"),)),
        ({"data": [{"id": "nomic-embed-text"}, {"id": "m"}]}, (ModelCard("m"), ModelCard("nomic-embed-text"))),
        ({"data": [{"id": "x", "type": "embedding"}, {"id": "m"}]}, (ModelCard("m"), ModelCard("x"))),
        ({"data": None}, ()),
        ({}, ()),
        ("busy", ()),
        (None, ()),
    ],
)
def test_a_list_is_read_in_every_form(value: Any, expected: tuple[ModelCard, ...]) -> None:
    """An entry that cannot be read costs no other one."""
    assert cards_in(value) == expected


def test_an_adapter_has_the_window_of_its_parent() -> None:
    """vLLM tells none for it; a base that the settings name will do as well."""
    adapter, base = ModelCard("tuned", None, "base"), ModelCard("base", 8192)
    known = endpoint(adapter, base)
    card = known.card("tuned")
    assert card is not None
    assert known.window(card) == 8192
    apart = endpoint(ModelCard("tuned"), base)
    assert apart.window(ModelCard("tuned"), "base") == 8192
    assert apart.window(ModelCard("tuned")) is None


def test_what_an_error_told_of_the_window_counts_until_the_server_goes_away() -> None:
    """It is newer than the list."""
    known = endpoint(ModelCard("m", 131072))
    known.learn_window("m", 8192)
    assert known.window(ModelCard("m", 131072)) == 8192
    known.forget()
    assert known.window(ModelCard("m", 131072)) == 131072


def test_the_first_model_is_that_of_the_settings_or_of_the_list() -> None:
    """Where none is named."""
    assert endpoint(ModelCard("m")).card(None) == ModelCard("m")
    assert endpoint(ModelCard("embedding"), models=("chat",)).card(None) == ModelCard("chat")
    assert endpoint().card(None) is None


def test_a_name_without_its_tag_is_on_the_list() -> None:
    """Ollama lists `llama3.2:latest` and takes `llama3.2`."""
    assert not endpoint(ModelCard("llama3.2:latest")).lacks("llama3.2")
    assert endpoint(ModelCard("llama3.2:1b")).lacks("llama3.2")
