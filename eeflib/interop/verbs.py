"""The actions of eeflib's environments as typed tools: data only.

Import `VERBS` from here; `trl` makes tools of it. Not here: how an environment reads an action.
"""

from __future__ import annotations

from collections.abc import Mapping

Verbs = Mapping[str, tuple[str, str]]
"""Name of a tool -> the action as the environment reads it, a field in braces per argument, and
what it does."""

VERBS: dict[str, Verbs] = {
    "webshop": {
        "search": ("search[{keywords}]", "Search the shop, from any page."),
        "click": (
            "click[{value}]",
            "Click a button of the page, such as a product id, an option, Next > or Buy Now. "
            "Buy Now ends the task.",
        ),
    },
    "scienceworld": {
        "look_around": ("look around", "Describe the room."),
        "inventory": ("inventory", "List what you carry."),
        "current_task": ("task", "Repeat the task."),
        "look_at": ("look at {thing}", "Describe a thing."),
        "look_in": ("look in {container}", "Describe what a container holds."),
        "read": ("read {thing}", "Read a text."),
        "go_to": ("go to {place}", "Go to a room next door, or to one outside."),
        "teleport_to": ("teleport to {place}", "Go to any room at once."),
        "open": ("open {thing}", "Open a door or a container."),
        "close": ("close {thing}", "Close a door or a container."),
        "pick_up": ("pick up {thing}", "Take a thing into the inventory."),
        "put_down": ("put down {thing}", "Put a carried thing on the floor."),
        "move": ("move {thing} to {container}", "Move a thing into or onto another."),
        "pour": ("pour {thing} into {container}", "Pour a liquid."),
        "dunk": ("dunk {container} into {liquid}", "Fill a container from a liquid."),
        "mix": ("mix {container}", "Mix what a container holds."),
        "use_on": ("use {thing} on {other}", "Use a thing, such as an instrument, on another."),
        "activate": ("activate {thing}", "Turn a device on."),
        "deactivate": ("deactivate {thing}", "Turn a device off."),
        "connect": ("connect {thing} to {other}", "Connect two terminals, such as of a wire."),
        "disconnect": ("disconnect {thing}", "Cut a thing's connections."),
        "eat": ("eat {thing}", "Eat a thing."),
        "flush": ("flush {thing}", "Flush a toilet."),
        "focus_on": (
            "focus on {thing}",
            "Focus on what the task names. A wrong focus ends the task.",
        ),
        "wait_ten": ("wait", "Let ten ticks of time pass."),
        "wait_one": ("wait1", "Let one tick of time pass."),
        "answer_menu": ("{number}", "Choose from the menu of an ambiguous request."),
    },
    "textworld": {
        "look_around": ("look around", "Describe the room."),
        "inventory": ("inventory", "List what you carry."),
        "examine": ("examine {thing}", "Describe a thing."),
        "read": ("read {thing}", "Read a text, such as the cookbook."),
        "go": ("move {direction}", "Go to the next room."),
        "open_door": ("open door to {direction}", "Open a door."),
        "close_door": ("close door to {direction}", "Close a door."),
        "open": ("open {thing}", "Open a container."),
        "close": ("close {thing}", "Close a container."),
        "take": ("take {thing}", "Take a thing."),
        "put": ("put {thing} in {container}", "Put a carried thing into or onto another."),
        "chop": ("chop {thing}", "Chop an ingredient; it stays so."),
        "slice": ("slice {thing}", "Slice an ingredient; it stays so."),
        "dice": ("dice {thing}", "Dice an ingredient; it stays so."),
        "cook": ("cook {thing} in {container}", "Cook an ingredient; it stays so."),
        "prepare_meal": ("prepare meal", "Make the meal of the prepared ingredients."),
        "eat": ("eat {thing}", "Eat a thing, such as the meal."),
    },
}

ARGUMENTS = {
    "keywords": "What to search for, in a few words.",
    "value": "The text of the button, as the page has it.",
    "place": "The name of the room.",
    "direction": "north, east, south or west.",
    "number": "A number that the menu lists.",
}
"""What an argument is; every other one is a name, as the observations write it."""
