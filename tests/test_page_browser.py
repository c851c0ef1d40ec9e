"""The page in a real browser: Chromium, driven by Selenium."""

import itertools
import json
from dataclasses import replace

from support import classifier, model_files

import numpy as np
import pytest
from conftest import SMALL
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import data
import distill
import student
from tools import page

pytestmark = pytest.mark.browser
NAMES = ["teacher", "student", "distilled"]
FLAGS = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
FLAGS += " disable-component-update"


@pytest.fixture(scope="module")
def digits():
    return data.load()


@pytest.fixture(scope="module")
def nets(digits):
    """{name: net}: three nets that an epoch has taught some digits, of different sizes or first weights."""
    recipe = replace(SMALL, epochs=1, batch_size=250, learning_rate=5e-3)
    sizes = {"teacher": (64,), "student": (16,), "distilled": (16,)}
    return {
        name: student.train_student(digits, replace(recipe, hidden=sizes[name], seed=seed))[0]
        for seed, name in enumerate(NAMES)
    }


@pytest.fixture(scope="module")
def path(nets, digits, tmp_path_factory):
    """The page of these nets; afterwards their kernels are those of the page."""
    folder = tmp_path_factory.mktemp("page")
    for name, net in nets.items():
        model_files.save(net, folder / f"{name}.keras", {"temperature": 4.0} if name == "distilled" else {}, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["page.py", "--out", str(folder)])
        page.terminal.run(page.main)
    for net in nets.values():
        page.page_layers(net, (28, 28), "net.keras", "float16")
    return folder / "page.html"


@pytest.fixture(scope="module")
def chromium(browser):
    options = webdriver.ChromeOptions()
    options.binary_location = browser[0]
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(browser[1]))
    yield driver
    driver.quit()


@pytest.fixture
def opened(chromium, path):
    """The browser, with the page just opened in a light window of 1400x1000 pixels; the test must log no error."""
    show(chromium, 1400, "light")
    chromium.get(path.as_uri())
    WebDriverWait(chromium, 20).until(lambda driver: driver.execute_script("return !!window.page"))
    yield chromium
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


def show(driver, width, scheme):
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def table(driver):
    """{heading of a row: the texts of its cells}."""
    cells = "[...row.children].map((cell) => cell.textContent)"
    rows = f"return [...document.querySelectorAll('tbody tr')].map((row) => {cells})"
    return {heading: cells for heading, *cells in driver.execute_script(rows)}


def probabilities(driver):
    return np.array([driver.execute_script("return page.probabilities(arguments[0])", name) for name in NAMES])


def draw(driver, *points):
    """A stroke through these points of the drawing area, from its middle, with the mouse."""
    actions = webdriver.ActionChains(driver, duration=20)
    actions.move_to_element_with_offset(driver.find_element(By.ID, "paper"), *points[0]).click_and_hold()
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        actions.move_by_offset(to_x - x, to_y - y)
    actions.release().perform()
    frame = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    driver.execute_async_script(frame)


def seen(driver):
    script = "const c = document.getElementById('seen'); return [...c.getContext('2d').getImageData(0, 0, 28, 28).data]"
    return np.reshape(driver.execute_script(script), (28, 28, 4))[..., 0]


def test_it_opens_from_disk_and_asks_for_nothing_else(opened, path):
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert asked == {path.as_uri()}


def test_a_test_digit_gives_the_class_and_the_logits_of_keras(opened, nets, digits):
    buttons = opened.find_elements(By.CSS_SELECTOR, ".images button")
    assert len(buttons) >= 20
    for button in [buttons[0], buttons[7], buttons[-1]]:
        button.click()
        index = int(button.accessible_name.split()[2].strip(","))
        image = digits.test.images[index : index + 1]
        np.testing.assert_array_equal(seen(opened), image[0])
        for name, cell in zip(NAMES, table(opened)["predicts"]):
            expected = classifier.predictor(nets[name])(image)[0]
            logits = opened.execute_script("return page.logits(...arguments)", name, (image / 255).ravel().tolist())
            np.testing.assert_allclose(logits, expected, atol=1e-4 * np.ptp(expected))
            assert cell.split()[0] == str(expected.argmax())


def test_the_slider_is_the_temperature(opened, nets, digits):
    image = digits.test.images[3]
    opened.execute_script("page.load(arguments[0])", (image / 255).ravel().tolist())
    logits = np.array([classifier.predictor(net)(image[None])[0] for net in nets.values()])
    slider = opened.find_element(By.ID, "temperature")
    for keys in (Keys.HOME, Keys.END, Keys.ARROW_LEFT * 40):
        slider.send_keys(keys)
        temperature = 20 ** (float(slider.get_property("value")) / 100)
        expected = distill.soft_targets(logits, temperature).numpy()
        np.testing.assert_allclose(probabilities(opened), expected, atol=1e-4)
        assert float(opened.find_element(By.ID, "shown").text) == pytest.approx(temperature, abs=0.06)
        rows = table(opened)
        for digit in range(10):
            assert rows[str(digit)] == [f"{100 * value:.1f}%" for value in probabilities(opened)[:, digit]]
        p, q = probabilities(opened)[[0, 2]]
        assert float(rows["KL (nats)"][2]) == pytest.approx(np.sum(p * np.log(p / q)), abs=1e-4)
    opened.find_element(By.CSS_SELECTOR, ".scale button").click()  # the mark at the temperature in distillation
    assert opened.find_element(By.ID, "shown").text == "4.0"


def test_a_stroke_changes_the_bars_and_undo_takes_it_back(opened):
    width = "return [...document.querySelectorAll('.bar b')].map((bar) => bar.style.width)"
    example = opened.execute_script(width)
    draw(opened, (-60, -70), (50, -70), (-20, 90))
    one = opened.execute_script(width), seen(opened)
    assert one[0] != example
    used = np.argwhere(one[1] > 0)
    assert np.ptp(used, axis=0).max() + 1 == 20
    draw(opened, (-50, 10), (50, 10))
    assert not np.array_equal(seen(opened), one[1])
    opened.find_element(By.ID, "undo").click()
    np.testing.assert_array_equal(seen(opened), one[1])
    assert opened.execute_script(width) == one[0]
    opened.find_element(By.CSS_SELECTOR, "[aria-label=right]").click()
    np.testing.assert_array_equal(seen(opened)[:, 1:], one[1][:, :-1])
    opened.find_element(By.ID, "clear").click()
    assert not seen(opened).any()
    assert table(opened)["predicts"] == ["–"] * 3


def test_a_click_draws_a_dot_and_undo_brings_the_test_image_back(opened):
    before, caption = seen(opened), opened.find_element(By.ID, "caption").text
    draw(opened, (0, 0))
    assert np.ptp(np.argwhere(seen(opened) > 0), axis=0).tolist() == [19, 19]
    assert opened.find_element(By.ID, "caption").text == "Your drawing"
    opened.find_element(By.ID, "undo").click()
    np.testing.assert_array_equal(seen(opened), before)
    assert opened.find_element(By.ID, "caption").text == caption


def test_a_shift_can_be_taken_back(opened):
    before = seen(opened)
    for name in ("left", "left", "down"):
        opened.find_element(By.CSS_SELECTOR, f"[aria-label={name}]").click()
    np.testing.assert_array_equal(seen(opened)[1:, :-2], before[:-1, 2:])
    opened.find_element(By.CSS_SELECTOR, "[aria-label=back]").click()
    np.testing.assert_array_equal(seen(opened), before)


def test_a_thicker_pen_makes_a_thicker_stroke(opened):
    ink = []
    for key in (Keys.HOME, Keys.END):
        opened.find_element(By.ID, "clear").click()
        opened.find_element(By.ID, "pen").send_keys(key)
        draw(opened, (-60, -60), (60, 60))
        ink.append(seen(opened).sum())
    assert ink[1] > 1.5 * ink[0]


def test_it_can_be_drawn_on_by_keyboard(opened):
    before = seen(opened)
    paper = opened.find_element(By.ID, "paper")
    paper.send_keys(Keys.SPACE, Keys.ARROW_DOWN * 12, Keys.ARROW_RIGHT * 6, Keys.SPACE)
    strokes = opened.execute_script("return strokes.map((stroke) => stroke.points.length)")
    assert strokes == [1 + 1 + 12 + 6]
    assert not np.array_equal(seen(opened), before)
    assert seen(opened).max() > 200
    said = opened.find_element(By.ID, "status").get_property("textContent")
    assert said == "; ".join(f"{name}: {cell}" for name, cell in zip(NAMES, table(opened)["predicts"]))


def test_everything_is_reached_by_tab_and_has_a_name(opened):
    controls = opened.find_elements(By.CSS_SELECTOR, "button, input, canvas[tabindex]")
    assert all(control.accessible_name for control in controls)
    reached = []
    for _ in controls:
        opened.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(opened.switch_to.active_element)
    assert set(reached) == set(controls)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_layout_holds(opened, width, scheme):
    show(opened, width, scheme)
    opened.refresh()
    draw(opened, (-60, -70), (50, -70), (-20, 90))
    assert opened.execute_script("return document.documentElement.scrollWidth") == width
    shifts = "new PerformanceObserver((list) => done(list.getEntries().map((entry) => entry.value)))"
    observe = f"{shifts}.observe({{type: 'layout-shift', buffered: true}})"
    script = f"const done = arguments[0]; {observe}; setTimeout(done, 300, [])"
    assert sum(opened.execute_async_script(script)) == 0
    rows = "[...document.querySelectorAll('.classes tr')]"
    assert set(opened.execute_script(f"return {rows}.map((row) => row.offsetHeight)")) == {24}
    texts = "[...document.querySelectorAll('th, td, p, button')]"
    cut_off = f"return {texts}.filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert opened.execute_script(cut_off) == 1  # the status line, for screen readers
    colours = "const body = getComputedStyle(document.body), soft = getComputedStyle(document.querySelector('.soft'));"
    used = opened.execute_script(f"{colours} return [body.backgroundColor, body.color, soft.color]")
    back, *texts = (luminance(colour) for colour in used)
    assert (back < 0.1) == (scheme == "dark")
    for text in texts:  # the contrast that WCAG 2.1 asks of text, level AA
        assert (max(back, text) + 0.05) / (min(back, text) + 0.05) >= 4.5


def luminance(text):
    """The relative luminance of WCAG of 'rgb(1, 2, 3)'."""
    values = np.array([int(part) for part in text[4:-1].split(",")]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
