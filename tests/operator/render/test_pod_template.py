"""Merging a profile's own pod template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa_operator.render.pod_template import merged

if TYPE_CHECKING:
    from moa_api.fields import JSONObject


def test_objects_are_merged_and_neither_is_changed() -> None:
    base: JSONObject = {"a": {"b": 1, "c": 2}}
    patch: JSONObject = {"a": {"c": 3, "d": 4}}
    assert merged(base, patch) == {"a": {"b": 1, "c": 3, "d": 4}}
    assert base == {"a": {"b": 1, "c": 2}}
    assert patch == {"a": {"c": 3, "d": 4}}


def test_a_null_removes_at_any_depth() -> None:
    assert merged({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"c": None}, "d": {"e": None}}) == {"b": {}, "d": {}}


def test_named_entries_are_merged_and_others_appended() -> None:
    base: JSONObject = {"containers": [{"name": "router", "image": "a", "env": [{"name": "X", "value": "1"}]}]}
    patch: JSONObject = {
        "containers": [
            {"name": "helper", "image": "h"},
            {"name": "router", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "3"}]},
        ]
    }
    assert merged(base, patch) == {
        "containers": [
            {"name": "router", "image": "a", "env": [{"name": "X", "value": "3"}, {"name": "Y", "value": "2"}]},
            {"name": "helper", "image": "h"},
        ]
    }


def test_ports_are_told_apart_by_number_and_protocol_with_its_default() -> None:
    base: JSONObject = {"ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]}
    assert merged(base, {"ports": [{"containerPort": 80, "hostPort": 80}]}) == {
        "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http", "hostPort": 80}]
    }
    assert merged(base, {"ports": [{"containerPort": 80, "protocol": "UDP"}]}) == {
        "ports": [
            {"containerPort": 80, "protocol": "TCP", "name": "http"},
            {"containerPort": 80, "protocol": "UDP"},
        ]
    }


def test_lists_without_names_are_replaced() -> None:
    assert merged({"args": ["a", "b"], "tolerations": [{"key": "a"}]}, {"args": ["c"], "tolerations": []}) == {
        "args": ["c"],
        "tolerations": [],
    }


def test_an_entry_that_is_no_object_is_passed_on_for_the_api_server_to_refuse() -> None:
    assert merged({"volumes": [{"name": "a"}]}, {"volumes": ["b"]}) == {"volumes": [{"name": "a"}, "b"]}
