# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of parameters on a real node: overrides in, declarations and live changes out."""
from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import nearest
from evit_seg.ros.params import check_values, class_rows, is_ours, NodeConfig, Row, TABLE
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

ROS_OWN = ('use_sim_time', 'start_type_description_service', 'qos_overrides')
"""First parts of the names that rclpy reads itself, on any node."""


class Parameters:
    """
    The parameters of one node: declared from the table, checked by it, changed by it.

    `changed` is called with the new configuration when a live change was accepted.
    """

    def __init__(self, node: Node, changed: Callable[[NodeConfig], None]) -> None:
        self._changed = changed
        given, foreign = _overrides(node)
        self._values, self.config = check_values(given)
        self._rows = {row.name: row for row in TABLE + class_rows(given)}
        node.declare_parameters('', [
            (row.name, _ros_value(self._values[row.name]), _descriptor(row))
            for row in self._rows.values()], ignore_override=True)
        node.add_on_set_parameters_callback(self._on_set)
        self.notes = _notes(node, given, foreign)

    def _on_set(self, parameters: List[Parameter]) -> SetParametersResult:
        changes = {p.name: p.value for p in parameters if p.name in self._rows}
        if not changes:
            return SetParametersResult(successful=True)
        try:
            self._values, self.config = check_values({**self._values, **changes})
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._changed(self.config)
        return SetParametersResult(successful=True)


def _overrides(node: Node) -> Tuple[Dict[str, Any], List[str]]:
    """Return what was given under our prefixes, and the other names that were given."""
    given, foreign = {}, []
    # rclpy's public way to learn the names, declaring all of them, fails on an empty list.
    for name, parameter in node._parameter_overrides.items():
        if is_ours(name):
            given[name] = parameter.value
        elif name.split('.')[0] not in ROS_OWN:
            foreign.append(name)
    return given, sorted(foreign)


def _notes(node: Node, given: Mapping[str, Any], foreign: List[str]) -> List[str]:
    """Return the warnings that the overrides deserve."""
    notes = []
    if foreign:
        notes.append('parameters of somebody else are ignored: '
                     + ', '.join(name + _hint(name) for name in foreign))
    if not given:
        notes.append(f'{node.get_fully_qualified_name()} got no parameter at all and runs on '
                     'defaults; a file meant for it must say `/**: ros__parameters:`, a plain '
                     'node name matches nothing under a namespace')
    return notes


def _hint(name: str) -> str:
    guess = nearest(name, [row.name for row in TABLE])
    return f' (did you mean {guess!r}?)' if guess else ''


def _ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _descriptor(row: Row) -> ParameterDescriptor:
    """Describe a row; typing is dynamic so that an integer for a float reaches our own check."""
    return ParameterDescriptor(
        description=f'{row.text} [{row.unit}]' if row.unit else row.text,
        additional_constraints=row.span(), read_only=row.when == 'start', dynamic_typing=True)
