"""The viewer of attention maps on its node, driven as a person would in each of the modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from person import FIND, Person, load
from waiting import wait_until

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import Server

MAPS = "P2P Attention Maps"
STEPS = 4
FEW = {"P2P_KSampler": {"steps": STEPS}}


@pytest.fixture
def person(page: Any) -> Iterator[Person]:
    """Someone before the page, on which nothing may go wrong."""
    yield Person(page)
    assert page.errors == []


def parts(person: Person, selector: str) -> list[Any]:
    """Parts of the viewer."""
    found = person.page.evaluate_handle(
        f"""([name, selector]) => [...({FIND})(name).widgets
            .find(one => one.name === 'p2p_maps').element.querySelectorAll(selector)]""",
        [MAPS, selector],
    )
    return [one.as_element() for one in found.get_properties().values()]


def middle(element: Any) -> tuple[float, float]:
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def hover(person: Person, text: str) -> None:
    (button,) = (one for one in parts(person, "button") if one.inner_text() == text)
    person.page.mouse.move(*middle(button))
    wait_until(lambda: button.get_attribute("aria-pressed") == "true", f"{text} is shown")


def painted(person: Person) -> list[list[int]]:
    """The colours of each row's map, red, green, blue and opacity by turns."""
    read = "one => [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data]"
    return [one.evaluate(read) for one in parts(person, "canvas")]


def names(person: Person) -> list[str]:
    return [one.inner_text() for one in parts(person, ".p2p-name")]


def run(person: Person, server: Server) -> Any:
    """Run the template until its viewer shows both pictures; returns the page."""
    load(person.page, ROOT / "workflows" / "5_attention_maps.json", FEW)
    assert person.run(server)["status"]["status_str"] == "success"
    wait_until(lambda: len(parts(person, "canvas")) == 2, "a picture each of source and edit")
    return person.page


def test_a_word_is_hovered_and_its_steps_are_gone_through(
    person: Person, server: Server, keep: Callable[[Any, str], None]
) -> None:
    page = run(person, server)
    hover(person, "circle")
    assert names(person) == ["source", "edit 1"]
    circle = painted(person)
    assert all(max(one) > 200 for one in circle)
    keep(page, "maps")
    hover(person, "grass")
    grass = painted(person)
    assert grass[0] != circle[0]
    hover(person, "blue")
    assert names(person) == ["source", "not in its prompt", "edit 1"]
    assert not any(painted(person)[0])

    hover(person, "circle")
    (slider,) = parts(person, "input")
    (told,) = parts(person, "output")
    assert told.inner_text() == "all steps"
    assert int(slider.get_attribute("max")) == STEPS
    box = slider.bounding_box()
    person.click((box["x"] + box["width"] - 2, box["y"] + box["height"] / 2))
    wait_until(lambda: told.inner_text() == f"step {STEPS}", "the last step")
    last = painted(person)
    assert last != circle
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: told.inner_text() == f"step {STEPS - 1}", "the step before")
    assert painted(person) != last
    keep(page, "maps_step")


def test_on_a_common_scale_words_can_be_compared(
    person: Person, server: Server, keep: Callable[[Any, str], None]
) -> None:
    """Each map has the brightest colour somewhere on its own scale; on a common one, one has."""
    page = run(person, server)
    brightest = (0xFD, 0xE7, 0x25)

    def bright() -> int:
        """How many maps have the brightest colour."""
        count = 0
        for word in ("red", "blue", "circle", "grass"):
            hover(person, word)
            for one in painted(person):
                count += brightest in zip(one[::4], one[1::4], one[2::4], strict=True)
        return count

    assert bright() == 6
    (button,) = (one for one in parts(person, "button") if one.inner_text() == "Common scale")
    person.click(middle(button))
    wait_until(lambda: button.get_attribute("aria-pressed") == "true", "a common scale")
    assert 1 <= bright() < 6
    keep(page, "maps_common")
