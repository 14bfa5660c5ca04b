"""app.py: the page in headless Chromium, cut off from the network, and what it refuses."""

import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("gradio", reason="the extra `app` is not installed")
import gradio

from talk2car_kd import page
from talk2car_kd.config import PACKAGE_ROOT
from talk2car_kd.single import Grounder
from talk2car_kd.stages.context import embedded_folder, world_spec
from talk2car_kd.world import write_world

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1280,900"),
)
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
WAIT_S = 60


@pytest.fixture(scope="module")
def grounder(tiny_run) -> Grounder:
    return Grounder.load(tiny_run.checkpoint)


@pytest.fixture(scope="module")
def picture_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "frame.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def url(grounder, picture_file):
    """The page, served in this process with one example."""
    demo = page.build_page(grounder, [(str(picture_file), "park next to the truck")])
    options = page.launch_options(gradio)
    _, address, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
    yield address
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium: install the Debian packages chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, OFFLINE, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(browser, css: str):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(lambda b: next(iter(b.find_elements(By.CSS_SELECTOR, css)), None))


def wait_for_text(browser, css: str, text: str) -> str:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S, ignored_exceptions=(Exception,)).until(
        lambda b: text in (found := wait_for(b, css).text) and found
    )


def test_upload_type_press_see(browser, url, grounder, picture_file):
    """A person's way through the page, with no host but this machine reachable."""
    browser.get(url)
    wait_for(browser, "#image input[type=file]").send_keys(str(picture_file))
    wait_for(browser, "#image img")
    wait_for(browser, "#command textarea").send_keys("stop behind the red car")
    wait_for(browser, "#ground").click()
    shown = wait_for_text(browser, "#answer", "1600 x 900")
    image = cv2.imread(str(picture_file))[..., ::-1].copy()
    for value in grounder.ground(image, "stop behind the red car").box_image_px:
        assert f"{value:.1f}" in shown
    assert wait_for(browser, "#picture img").get_property("naturalWidth") > 1.9 * 960
    assert "embedded" in wait_for(browser, "#mark").text
    assert wait_for(browser, "#examples")


def test_mistakes_are_told_on_the_page(browser, url, picture_file):
    browser.get(url)
    wait_for(browser, "#ground").click()
    wait_for_text(browser, "body", "Choose a picture first")
    wait_for(browser, "#image input[type=file]").send_keys(str(picture_file))
    wait_for(browser, "#image img")
    wait_for(browser, "#ground").click()
    wait_for_text(browser, "body", "says nothing")


def test_nothing_is_asked_of_other_hosts(browser, url):
    browser.get(url)
    wait_for(browser, "#ground")
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    asked = browser.execute_script(script)
    assert asked and all(name.startswith((url, "data:", "blob:")) for name in asked), asked


def test_the_served_page_names_no_font_service(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    assert "fonts.googleapis.com" not in text and "Talk2Car grounding" in text


def test_examples_come_from_the_embedded_world_when_it_is_there(tiny_run, tmp_path):
    config = tiny_run.config
    assert page.world_examples(config) == []
    config = config.model_copy(update={"data": config.data.model_copy(update={"embedded_dir": tmp_path})})
    write_world(embedded_folder(config), world_spec(config), workers=1)
    examples = page.world_examples(config, 3)
    assert len(examples) == 3 and all(Path(path).is_file() and text for path, text in examples)


@pytest.mark.readme("python app.py --port 7860")
def test_the_command_serves_the_page(tiny_run, monkeypatch, readme):
    """Until it is stopped: here once the page was fetched."""
    served = []

    def fetch(page):
        served.append(urllib.request.urlopen(page.local_url, timeout=WAIT_S).read())

    monkeypatch.setattr(gradio.Blocks, "block_thread", fetch)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (line,) = readme
    assert page.main([*line.arguments, "--port", port, "--checkpoint", str(tiny_run.checkpoint)]) == 0
    assert b"Talk2Car grounding" in served[0]


def test_a_taken_port_is_an_error_with_a_remedy(tiny_run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert page.main(["--checkpoint", str(tiny_run.checkpoint), "--port", port]) == 2
    assert "--port" in capsys.readouterr().err


def test_the_script_refuses_without_a_model(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PACKAGE_ROOT / "app.py"), "--results", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2 and "no talk2car_best.pth" in done.stderr and "Traceback" not in done.stderr
