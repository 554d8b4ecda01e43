"""Names resolve, unknown ones are answered with the nearest, missing extras with the command."""

import sys

import pytest

from reverie.core import registry
from reverie.core.check import check_world_model
from reverie.core.errors import MissingExtra, UnknownName
from reverie.core.model import WorldModel
from reverie.core.types import Heads

EVERY_MODEL = (*registry.names("oracle"), *registry.names("model"))


@pytest.mark.parametrize("name", registry.names("model"))
def test_a_school_is_registered_under_the_name_on_its_card(name):
    school = registry.model(name)
    assert issubclass(school, WorldModel)
    assert school.card.name == name


@pytest.mark.parametrize("name", registry.names("model"))
def test_the_card_names_the_heads_of_the_default_instance(name):
    heads = registry.instance(name).heads
    found = {head for head in Heads._fields if head != "owner" and getattr(heads, head) is not None}
    assert set(registry.model(name).card.heads) == found


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_registering_is_being_tested(name):
    assert check_world_model(registry.instance(name, small=True))


@pytest.mark.parametrize("kind", ["recipe", "env"])
def test_every_path_resolves_to_something_to_call(kind):
    for name in registry.names(kind):
        assert callable(registry.lookup(kind, name))


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("world_models_2018.doom_quik", "world_models_2018.doom_quick"),
        ("doom", "world_models_2018.doom"),  # a part of the name is near, too
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, near):
    with pytest.raises(UnknownName, match=f"There is no recipe '{wrong}'. Did you mean .*{near}"):
        registry.recipe(wrong)


def test_a_name_near_to_nothing_is_answered_with_all():
    with pytest.raises(UnknownName) as error:
        registry.model("zzzzzz")
    assert str(error.value) == (
        f"There is no model 'zzzzzz'. Models: {', '.join(registry.names('model'))}."
    )


def test_an_unknown_kind_is_refused():
    with pytest.raises(UnknownName, match="There is no kind 'modle'. Did you mean model"):
        registry.names("modle")


def test_names_can_be_added_but_not_taken(monkeypatch):
    monkeypatch.setattr(registry, "_PATHS", {k: dict(v) for k, v in registry._PATHS.items()})
    registry.register("recipe", "mine", "collections:OrderedDict.fromkeys")
    registry.register("recipe", "mine", "collections:OrderedDict.fromkeys")
    assert registry.recipe("mine")("ab") == {"a": None, "b": None}
    with pytest.raises(UnknownName, match="cannot become collections:Counter"):
        registry.register("recipe", "mine", "collections:Counter")


def test_paths_walk_into_tables():
    assert registry.resolve("sys:modules.sys") is sys


def test_a_missing_package_names_the_pip_command():
    with pytest.raises(MissingExtra, match=r"'no_such_package', which is not installed\. Run: pip"):
        registry.require("no_such_package", "doom")
    assert registry.require("json", "doom").dumps([]) == "[]"


def test_a_broken_package_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match="does not import .No module named 'no_such_dependency'"):
        registry.require("broken_package", "doom")
